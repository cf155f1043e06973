#!/usr/bin/env bash
# Fuzzes each decoder in turn. Without cargo-fuzz it says how to get it; `make test` runs a bounded
# randomised test over the same entry points in any case.
# usage: tools/fuzz.sh [SECONDS EACH]      (default 60)
set -euo pipefail
cd "$(dirname "$0")/../fuzz"

seconds=${1:-60}
if ! command -v cargo-fuzz >/dev/null || ! cargo +nightly --version >/dev/null 2>&1; then
  echo "error: fuzzing needs: rustup toolchain install nightly && cargo install cargo-fuzz" >&2
  exit 1
fi
for target in fuzz_targets/*.rs; do
  name=$(basename "$target" .rs)
  echo "== $name" >&2
  cargo +nightly fuzz run "$name" -- -max_total_time="$seconds" -max_len=65536
done
