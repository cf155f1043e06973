#!/usr/bin/env bash
# Cuts the RFC 9420 test vectors down to our cipher suite, and the long ones to a part, so that they can lie here.
# usage: crates/chat/vectors/trim.sh DIRECTORY      DIRECTORY holds the vectors as README.md says
set -euo pipefail
from=$(realpath "$1")
cd "$(dirname "$0")"

for name in crypto-basics welcome passive-client-welcome passive-client-handling-commit; do
  jq -c '.[] | select(.cipher_suite == 1)' "$from/$name.json" | jq -s -c . >"$name.json"
done
# One group over many epochs: the first ones.
jq -c '[.[] | select(.cipher_suite == 1) | .epochs |= .[:60]]' "$from/passive-client-random.json" >passive-client-random.json
# Of 300 only those that differ in more than random bytes: the first ones whose KeyPackage names our suite
# (after MLSMessage's version and wire format, and the KeyPackage's version).
jq -c '[.[] | select(.mls_key_package[12:16] == "0001")][:20]' "$from/messages.json" >messages.json
