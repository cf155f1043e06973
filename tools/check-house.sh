#!/usr/bin/env bash
# Checks what the compiler does not: licences and banned crates (deny.toml), and the arrows between
# our crates (ARCHITECTURE.md). Needs no network beyond what the build needs.
# usage: tools/check-house.sh
set -euo pipefail
cd "$(dirname "$0")/.."

metadata=$(cargo metadata --locked --format-version 1)

# The quoted words of a list in deny.toml: list_of KEY.
list_of() {
  sed -n "/^$1 = \[/,/^\]/p" deny.toml
}
allowed=$(list_of allow | grep -o '"[^"]*"' | jq -s .)
banned=$(list_of deny | sed -n 's/.*name = \("[^"]*"\).*/\1/p' | jq -s .)

# A licence expression holds if an alternative of it is wholly allowed; brackets go innermost first.
bad=$(jq -r --argjson allowed "$allowed" --argjson banned "$banned" '
  def flat: split(" OR ") | any(split(" AND ") | all(. as $l | $l == "yes" or ($allowed | index($l))));
  def holds:
    if test("\\([^()]*\\)") then
      (capture("\\((?<inner>[^()]*)\\)").inner) as $inner
      | split("(" + $inner + ")") | join(if ($inner | flat) then "yes" else "no" end) | holds
    else flat end;
  .packages[]
  | (if (.license // "" | gsub(" */ *"; " OR ") | holds) then empty
     else "licence not allowed: \(.name) \(.version): \(.license // "none")" end),
    (if .name as $n | $banned | index($n) then "banned: \(.name) \(.version)" else empty end)
' <<<"$metadata")

# What each crate may use of ours. Tests may use more.
arrows=$(jq -r '
  {
    "relay-proto": [],
    "relay-store": ["relay-proto"],
    "relay-core": ["relay-store", "relay-proto"],
    "relay-fed": ["relay-store", "relay-proto"],
    "relay-actors": ["relay-store", "relay-proto"],
    "relay-node": ["relay-core", "relay-fed", "relay-actors", "relay-store", "relay-proto"],
    "relay-edge": ["relay-node", "relay-core", "relay-fed", "relay-actors", "relay-store", "relay-proto"],
    "relay-client": ["relay-proto"],
    "relay-chat": ["relay-client", "relay-proto"],
    "relay-tui": ["relay-chat", "relay-proto"]
  } as $may
  | .workspace_members as $ours
  | .packages[] | select(.id as $id | $ours | index($id)) | select($may[.name])
  | .name as $from | .dependencies[]
  | select(.kind == null and (.name | startswith("relay-")))
  | select(.name as $to | $may[$from] | index($to) | not)
  | "arrow not allowed: \($from) -> \(.name)"
' <<<"$metadata")

if [ -n "$bad$arrows" ]; then
  printf '%s\n' "$bad" "$arrows" | sed '/^$/d' >&2
  exit 1
fi
