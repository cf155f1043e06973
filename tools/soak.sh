#!/usr/bin/env bash
# The long campaigns: every test marked #[ignore], one after the other, with their rounds turned up.
# usage: tools/soak.sh [CARGO TEST ARGUMENTS…]      RELAY_ROUNDS: rounds of kill -9 (default 200)
set -euo pipefail
cd "$(dirname "$0")/.."

export RELAY_ROUNDS=${RELAY_ROUNDS:-200} RELAY_MUTATIONS=${RELAY_MUTATIONS:-2000000}
export RELAY_CHURN_CYCLES=${RELAY_CHURN_CYCLES:-10000}
cargo build --locked --workspace --release --bin relay
RELAY_BIN=$PWD/${CARGO_TARGET_DIR:-target}/release/relay
export RELAY_BIN
cargo test --locked --workspace --release --no-fail-fast "$@" -- --include-ignored --test-threads=1
