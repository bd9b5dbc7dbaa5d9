#!/bin/sh
# Backs up PostgreSQL until it is stopped: streams the WAL, and takes a base backup a day. See docs/backup.md.
#
#   backup.sh FOLDER KEEP HOUR    keeps this many base backups; takes one a day, from this hour (UTC) on
#
# The folder has series, such as 20261201T021500Z: WAL without a gap (wal/) and base backups in it (base-…/). A new series
# begins if PostgreSQL has no slot for the old one: at the first start, after a restore, and if the WAL that was not
# copied yet exceeded max_slot_wal_keep_size. libpq's variables (PGHOST, PGUSER, …) say where PostgreSQL is.
set -eu
dir=$1 keep=$2 hour=$3
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$here/functions.sh"

receiver='' base='' idle=0

runs() { [ -n "$1" ] && kill -0 "$1" 2>/dev/null; }
stop_receiving() {
  if runs "$receiver"; then kill "$receiver"; wait "$receiver" || true; fi
  receiver='' idle=0
}
trap 'stop_receiving; if runs "$base"; then kill "$base"; wait "$base"; fi; exit 0' TERM INT

# pg_receivewal reconnects by itself.
receive() { pg_receivewal --slot="$slot" --directory="$(newest_series)/wal" --no-password & receiver=$!; }

begin_series() {
  echo 'beginning a new series: PostgreSQL has no WAL that continues the last one'
  stop_receiving
  [ -z "$state" ] || pg_receivewal --drop-slot --slot="$slot" --no-password || return
  pg_receivewal --create-slot --slot="$slot" --no-password && mkdir -p "$dir/$(stamp)/wal"
}

is_due() {
  newest=$(basename "$(newest_base "$(newest_series)")")
  [ -n "$newest" ] || return 0
  day=${newest#base-}
  [ "${day%T*}" != "$(date -u +%Y%m%d)" ] && [ "$(date -u +%H)" -ge "$hour" ]
}

step() {
  if ! has_room; then
    echo 'less than 5 % of the disk is free: not backing up'
    stop_receiving
    return
  fi
  state=$(sql "SELECT CASE WHEN wal_status = 'lost' THEN 'lost' WHEN active THEN 'active' ELSE 'idle' END
    FROM pg_replication_slots WHERE slot_name = '$slot'") || return
  [ -n "$(newest_series)" ] || state=${state:+lost}
  case $state in
    '' | lost) begin_series || return ;;
    active) idle=0 ;;
    # The WAL in the folder may continue in no way what PostgreSQL has, as after a restore of the machine.
    idle) if [ "$((idle += 1))" -gt 6 ]; then begin_series || return; fi ;;
  esac
  runs "$receiver" || receive
  if [ "$state" = active ] && ! runs "$base" && is_due; then
    # After a failure, wait before the next try.
    { sh "$here/base.sh" "$dir" "$keep" || sleep 600; } & base=$!
  fi
}

while :; do
  step || echo 'trying again'
  sleep 5 & wait $!
done
