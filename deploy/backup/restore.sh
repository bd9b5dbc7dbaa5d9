#!/bin/sh
# Restores PostgreSQL from the folder of backup.sh into an empty data folder, as the user who runs PostgreSQL:
#
#   restore.sh FOLDER DATA [TIME]    to the newest state, or to a time such as 2026-12-01T14:30:00Z
#
# Starts a server that nobody else can reach, waits until it has replayed the WAL, and stops it. If it fails, DATA is empty.
set -eu
# Recovery runs in the data folder.
here=$(cd "$(dirname "$0")" && pwd) dir=$(cd "$1" && pwd) data=$2 time=${3:-}
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

fail() { echo "$1" >&2; exit 1; }

mkdir -p "$data"
chmod 700 "$data"
[ -z "$(ls -A "$data")" ] || fail "$data is not empty"
case $time in
  '') before=9 ;;
  *T*:*:*Z) before=$(date -u -d "$time" +%Y%m%dT%H%M%SZ) time=$(date -u -d "$time" '+%F %T.%6N+00') ;;
  *) fail 'the time must look like 2026-12-01T14:30:00Z (UTC)' ;;
esac
base=$(all_bases | awk -F/base- -v before="$before" '$NF <= before' | tail -n 1)
[ -n "$base" ] || fail 'there is no base backup that old'
echo "restoring $base"

place=$(mktemp -d)
undo() {
  pg_ctl stop --silent --pgdata="$data" --mode=immediate 2>/dev/null || true
  cat "$place/log" >&2 2>/dev/null || true
  find "$data/" -mindepth 1 -delete
}
isDone=''
trap '[ -n "$isDone" ] || undo; rm -rf "$place"' EXIT
trap 'exit 1' TERM INT

tar -xzf "$base/base.tar.gz" -C "$data"
tar -xzf "$base/pg_wal.tar.gz" -C "$data/pg_wal"
cp "$base/backup_manifest" "$data"
pg_verifybackup --quiet "$data"
rm "$data/backup_manifest"
touch "$data/recovery.signal"
wal=$(dirname "$base")/wal
cat >"$place/postgresql.conf" <<END
listen_addresses = ''
unix_socket_directories = '$place'
hba_file = '$place/pg_hba.conf'
hot_standby = off
restore_command = '"$here/fetch-wal.sh" "$wal" %f %p'
recovery_target_time = '$time'
recovery_target_action = promote
END
echo 'local all all trust' >"$place/pg_hba.conf"
pg_ctl start --silent --pgdata="$data" --log="$place/log" --options="-c config_file=$place/postgresql.conf" ||
  fail 'PostgreSQL could not restore this'
until pg_isready --quiet --host="$place"; do
  [ -s "$data/postmaster.pid" ] || fail 'PostgreSQL could not restore this'
  sleep 1
done

counts=''
for user in opm postgres; do # the superuser with Docker Compose, and on Debian
  counts=$(PGHOST=$place PGUSER=$user PGDATABASE=opm psql -XAtq 2>&1 --command="
    SELECT 'replayed to ' || pg_last_wal_replay_lsn();
    SELECT 'customers: ' || count(*) FROM customers;
    SELECT 'API keys: ' || count(*) FROM api_keys;
    SELECT 'dead letters: ' || count(*) FROM dead_letters;") && break
done
echo "$counts"
grep -o 'last completed transaction was at log time .*' "$place/log" || true
pg_ctl stop --silent --pgdata="$data" --mode=fast --timeout=3600
isDone=1
