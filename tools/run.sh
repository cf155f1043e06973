#!/usr/bin/env bash
# Builds a relay, tells what to try, and runs it in the foreground with its data in ./data.
# usage: tools/run.sh [dev|release]
set -euo pipefail
cd "$(dirname "$0")/.."

profile=${1:-dev}
dir=$profile
[ "$profile" = dev ] && dir=debug
cargo build --locked --profile "$profile" --bin relay

cat >&2 <<EOF

A relay starts now, on http://127.0.0.1:8080, with its data in $PWD/data. In another terminal:

  export PATH="$PWD/target/$dir:\$PATH" RELAY_URL=http://127.0.0.1:8080
  relay keys gen                                          # your key, once
  relay event stream                                      # watch, in a third terminal
  relay event publish --content 'hello'                   # sign and publish
  relay lock run site/prod -- sh -c 'echo token \$RELAY_FENCING_TOKEN; sleep 5'
  relay lock inspect site/prod

Ctrl-C here stops it.

EOF
exec "target/$dir/relay" serve --data-dir "$PWD/data"
