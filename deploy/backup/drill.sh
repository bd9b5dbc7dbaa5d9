#!/bin/sh
# A restore drill: restores the newest state beside the running PostgreSQL, and fails if anything is missing there. With a TIME,
# rehearses a restore to it.
#
#   drill.sh FOLDER [TIME]    FOLDER/drill is removed and needs room for the database
set -eu
dir=$1 time=${2:-} scratch=$1/drill
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$here/functions.sh"

lsn=$(sql 'SELECT pg_current_wal_lsn()')
rm -rf "$scratch"
trap 'rm -rf "$scratch"' EXIT
restored=$(sh "$here/restore.sh" "$dir" "$scratch" "$time")
echo "$restored"
[ -z "$time" ] || exit 0
replayed=$(echo "$restored" | sed -n 's/^replayed to //p')
[ "$(sql "SELECT '$replayed'::pg_lsn >= '$lsn'")" = t ] || { echo "the WAL up to $lsn is missing" >&2; exit 1; }
echo 'the drill passed: every row that was committed when it began is there'
