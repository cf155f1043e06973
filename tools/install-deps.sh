#!/usr/bin/env bash
# Installs what `make test` needs and this machine lacks. Assumes Debian or a child of it;
# elsewhere it says what is missing. Does nothing where everything is there.
# usage: tools/install-deps.sh
set -euo pipefail

packages=()
need() { # need COMMAND PACKAGE
  command -v "$1" >/dev/null || packages+=("$2")
}
need cc build-essential
need git git
need jq jq
need ssh-keygen openssh-client
need age age
need shellcheck shellcheck
need curl curl
# The social layer's peers in tests: the canonical client runs in Node; nginx stands for a CDN.
need node nodejs
need npm npm
need nginx nginx-light
need pebble pebble
# The terminal of the TUI's test.
need tmux tmux
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)

as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)

# The package would start a server of its own; the tests start a private one.
forbid_services() {
  [ -e /usr/sbin/policy-rc.d ] && return
  trap '"${as_root[@]}" rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee /usr/sbin/policy-rc.d >/dev/null
  "${as_root[@]}" chmod 755 /usr/sbin/policy-rc.d
}

if [ ${#packages[@]} -gt 0 ]; then
  if ! command -v apt-get >/dev/null; then
    echo "error: not a Debian machine; install by hand: ${packages[*]}" >&2
    exit 1
  fi
  echo "installing: ${packages[*]}" >&2
  forbid_services
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${packages[@]}"
fi

if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
  echo "installing the Rust tool chain into ~/.cargo" >&2
  curl -fsS --proto '=https' --tlsv1.2 https://sh.rustup.rs \
    | sh -s -- -y --profile minimal --component rustfmt --component clippy
fi
