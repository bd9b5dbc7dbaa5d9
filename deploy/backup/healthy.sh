#!/bin/sh
# Fails, and says why, if a restore would lose more than it should: healthy.sh FOLDER
set -eu
dir=$1
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

unhealthy() { echo "$1" >&2; exit 1; }

has_room || unhealthy 'less than 5 % of the disk is free'
newest=$(newest_base "$(newest_series)")
[ -n "$(find "${newest:-/nowhere}" -maxdepth 0 -mmin -1560 2>/dev/null)" ] || unhealthy 'the newest series has no base backup of the last 26 hours'
is_copied=$(sql "SELECT active AND pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 1e9
  FROM pg_replication_slots WHERE slot_name = '$slot'") || unhealthy 'PostgreSQL does not answer'
[ "$is_copied" = t ] || unhealthy 'the newest WAL is not copied'
