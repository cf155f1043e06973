#!/usr/bin/env bash
# Installs what `relay-bench` compares with, on a bare Debian machine with cargo:
#   etcd, Redis and PostgreSQL as Debian packages (their services are not started),
#   nostr-rs-relay 0.8.12 from crates.io, built into a private directory.
# usage: tools/install-peers.sh [DIRECTORY]      default ~/.cache/relay-peers
# The benchmark finds nostr-rs-relay in DIRECTORY/bin (RELAY_PEERS names another one).
set -euo pipefail

peers=${1:-${RELAY_PEERS:-$HOME/.cache/relay-peers}}
version=0.8.12

install_packages() {
  local missing=() as_root=()
  command -v etcd >/dev/null || missing+=(etcd-server)
  command -v redis-server >/dev/null || missing+=(redis-server)
  compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
  command -v cc >/dev/null || missing+=(build-essential)
  command -v protoc >/dev/null || missing+=(protobuf-compiler)
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  # Packages start their services when they are installed; the benchmark starts its own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    trap '"${as_root[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee /usr/sbin/policy-rc.d >/dev/null
    "${as_root[@]}" chmod 755 /usr/sbin/policy-rc.d
  fi
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"
}

# Its lock file pins a release of `time` that today's compiler refuses, and `cargo install`
# cannot move one package of a lock file: so fetch the source, move it, build.
install_nostr() {
  [ -x "$peers/bin/nostr-rs-relay" ] && return
  local work=$peers/src cargo_home=${CARGO_HOME:-$HOME/.cargo}
  mkdir -p "$work/fetch/src" "$peers/bin"
  printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nnostr-rs-relay = "=%s"\n[workspace]\n' \
    "$version" >"$work/fetch/Cargo.toml"
  touch "$work/fetch/src/lib.rs"
  (cd "$work/fetch" && cargo fetch -q)
  rm -rf "$work/nostr-rs-relay"
  cp -r "$cargo_home"/registry/src/*/nostr-rs-relay-"$version" "$work/nostr-rs-relay"
  cd "$work/nostr-rs-relay"
  printf '\n[workspace]\n' >>Cargo.toml
  cargo update -q -p time@0.3 --precise 0.3.36
  CARGO_TARGET_DIR=$work/target cargo build --release --locked --bin nostr-rs-relay
  cp "$work/target/release/nostr-rs-relay" "$peers/bin/"
}

install_packages
install_nostr
echo "peers are ready; nostr-rs-relay is in $peers/bin"
