# shellcheck shell=bash
# Sourced by the scripts in this folder: where things are, and the few words they share.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=$ROOT/tools/bin
# shellcheck source=tools/versions.env
. "$ROOT/tools/versions.env"
# Behind the caller's own: where rustup and Go's archive put programs before a new shell knows, and the
# folders of `ip`, `nft` and `dockerd`, which a plain user's PATH lacks.
export PATH=$BIN:$PATH:${HOME:-/root}/.cargo/bin:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%-26s %s\n' "$1" "$2"; }

# The message, with more lines as what to do about it.
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

am_root() { [ "$(id -u)" -eq 0 ]; }

# at_least 1.26.8 1.26: is the first version the second or a later one?
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]; }

# wait_until SECONDS COMMAND...: runs the command until it succeeds; fails at the deadline.
wait_until() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.1
  done
}
