#!/bin/sh
# Takes a base backup and removes what is older than the newest KEEP of them: base.sh FOLDER KEEP
set -eu
dir=$1 keep=$2
# shellcheck source-path=SCRIPTDIR source=functions.sh
. "$(dirname "$0")/functions.sh"

exec 9>"$dir/lock"
flock 9 # waits for another one
series=$(newest_series)
[ -n "$series" ] || { echo 'backup.sh must run first' >&2; exit 1; }
rm -rf "$dir"/2*Z/unfinished
pg_basebackup --pgdata="$series/unfinished" --format=tar --gzip --checkpoint=fast --label=opm --no-password
while base=$series/base-$(stamp); [ -e "$base" ]; do sleep 1; done
mv "$series/unfinished" "$base"
echo "took $base"

all_bases | head -n "-$keep" | while read -r old; do rm -rf "$old"; done
for series in "$dir"/2*Z; do
  oldest=$(find "$series" -maxdepth 1 -name 'base-*' | sort | head -n 1)
  if [ -n "$oldest" ]; then
    label=$(tar --occurrence=1 -xzOf "$oldest/base.tar.gz" backup_label)
    pg_archivecleanup "$series/wal" "$(echo "$label" | sed -n 's/^START WAL LOCATION: .*(file \([0-9A-F]*\)).*/\1/p')"
  elif [ "$series" != "$(newest_series)" ]; then
    rm -rf "$series"
  fi
done
