#!/usr/bin/env bash
# Runs a command with a private PostgreSQL: own directory, own socket, no network, gone afterwards.
# The command finds it in RELAY_TEST_DATABASE_URL and may create databases at will.
# usage: tools/with-postgres.sh COMMAND [ARG…]
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARG...]" >&2; exit 2; }

bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
[ -x "$bin/initdb" ] || { echo "error: no PostgreSQL found; run tools/install-deps.sh" >&2; exit 1; }

dir=$(mktemp -d "${TMPDIR:-/tmp}/relay-postgres.XXXXXX")
server=
stop() {
  [ -z "$server" ] || { kill -INT "$server" 2>/dev/null && wait "$server"; } || true
  rm -rf "$dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# PostgreSQL refuses to run as root: then its programs run as the package's user.
as_server=()
if [ "$(id -u)" -eq 0 ]; then
  chown postgres "$dir"
  as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups)
fi

(cd "$dir" && "${as_server[@]}" "$bin/initdb" --auth=trust --username=postgres --encoding=UTF8 \
  --no-sync -D "$dir/data" >"$dir/initdb.log") || { cat "$dir/initdb.log" >&2; exit 1; }
(cd "$dir" && exec "${as_server[@]}" "$bin/postgres" -D "$dir/data" -k "$dir" \
  -c listen_addresses= -c max_connections=200 -c logging_collector=off >"$dir/log" 2>&1) &
server=$!

for _ in $(seq 300); do
  "$bin/pg_isready" -q -h "$dir" -U postgres && break
  kill -0 "$server" 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
  sleep 0.1
done

export RELAY_TEST_DATABASE_URL="postgresql:///postgres?host=$dir&user=postgres"
"$@"
