# Shared by the scripts beside it.
# shellcheck shell=sh disable=SC2034,SC2154 # they set `dir` and use the rest

slot=opm_backup
# Compose mounts the password as a file; elsewhere libpq finds it, or needs none.
if [ -r /run/secrets/backup-password ]; then
  PGPASSWORD=$(cat /run/secrets/backup-password)
  export PGPASSWORD
fi
export PGCONNECT_TIMEOUT="${PGCONNECT_TIMEOUT:-10}"
# Debian keeps the server's programs out of the PATH.
for bin in /usr/lib/postgresql/*/bin; do PATH=$PATH:$bin; done

stamp() { date -u +%Y%m%dT%H%M%SZ; }
sql() { psql -XAtq --no-password --dbname=postgres --command="$1"; }
# The names are times, so the last one is the newest. With a slash, `find` follows a link.
newest_series() { find "$dir/" -mindepth 1 -maxdepth 1 -type d -name '2*Z' | sort | tail -n 1; }
all_bases() { find "$dir/" -mindepth 2 -maxdepth 2 -type d -path '*Z/base-*' | sort; }
newest_base() { find "${1:-/nowhere}" -mindepth 1 -maxdepth 1 -name 'base-*' 2>/dev/null | sort | tail -n 1; }
has_room() { df -P "$dir" | awk 'NR == 2 { exit !(100 * $4 > 5 * ($3 + $4)) }'; }
