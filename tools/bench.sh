#!/usr/bin/env bash
# Measures this relay side by side with its peers, in one run. Installs the peers first.
# usage: tools/bench.sh [ARGUMENTS OF relay-bench…]
set -euo pipefail
cd "$(dirname "$0")/.."

tools/install-peers.sh
cargo build --locked --release --bin relay --bin relay-bench
exec target/release/relay-bench "$@"
