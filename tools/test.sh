#!/usr/bin/env bash
# Runs all tests: with cargo-nextest where it is installed, else with cargo test.
# usage: tools/test.sh [CARGO ARGUMENTS…]
set -euo pipefail
cd "$(dirname "$0")/.."

# Tests with real processes use this one build.
cargo build --locked --workspace --bin relay
RELAY_BIN=$PWD/${CARGO_TARGET_DIR:-target}/debug/relay
export RELAY_BIN

if command -v cargo-nextest >/dev/null; then
  cargo nextest run --locked --workspace --no-fail-fast "$@"
  cargo test --locked --workspace --doc --quiet
else
  cargo test --locked --workspace --no-fail-fast "$@"
fi
