#!/usr/bin/env bash
# Measures this relay side by side with its peers, in one run. Installs the peers first.
# Without arguments: every scenario on both stores, tables into docs/benchmarks.md (half an hour).
# usage: tools/bench.sh [ARGUMENTS OF relay-bench…]
set -euo pipefail
cd "$(dirname "$0")/.."

tools/install-peers.sh
cargo build --locked --release -p relay -p relay-bench --features relay-bench/peers
bench=(target/release/relay-bench --server-bin target/release/relay)

if [ $# -gt 0 ]; then
  exec "${bench[@]}" "$@"
fi
"${bench[@]}" events fanout queries locks idle subs start \
  --stores sqlite,postgres --peers --write docs/benchmarks.md
"${bench[@]}" big --write docs/benchmarks.md
