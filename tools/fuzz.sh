#!/usr/bin/env bash
# Fuzzes each decoder in turn, with cargo-fuzz (cargo install cargo-fuzz). The sanitizer needs flags that
# rustup calls nightly's; a stable compiler takes them with RUSTC_BOOTSTRAP=1, so that is enough.
# `make test` runs a bounded randomised test over the same entry points in any case.
# usage: tools/fuzz.sh [SECONDS EACH [TARGET…]]      (default 60, all)
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-60}
shift || true
if ! command -v cargo-fuzz >/dev/null; then
  echo "error: fuzzing needs: cargo install cargo-fuzz" >&2
  exit 1
fi
if [ $# -eq 0 ]; then
  for file in fuzz_targets/*.rs; do
    set -- "$@" "$(basename "$file" .rs)"
  done
fi

# The tool chain that is there, nightly or not.
export RUSTC_BOOTSTRAP=1
cargo fuzz build
for target in "$@"; do
  echo "== $target" >&2
  cargo fuzz run "$target" -- -max_total_time="$seconds" -max_len=65536 -print_final_stats=1
done
