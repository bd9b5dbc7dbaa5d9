#!/bin/sh
# Moves this machine to the version in /opt/opm/VERSION: upgrade.sh VERSION. The old version answers until its processes are
# replaced, one by one. The first failure ends the upgrade; processes that are not replaced yet go on with the old version.
set -eu
cd "/opt/opm/$1"

units=/etc/systemd/system
install -D --mode=644 --target-directory="$units" deploy/systemd/*.service deploy/systemd/*.target deploy/systemd/*.timer
install -D --mode=644 --target-directory="$units/opm-.service.d" deploy/systemd/opm-.service.d/common.conf
install --mode=755 deploy/systemd/opm /usr/local/bin/opm
systemctl daemon-reload

# One machine has the superuser's connection. It migrates, so upgrade it first.
if [ -e /etc/opm/secrets/pg_service.conf ]; then
  export PGSERVICEFILE=/etc/opm/secrets/pg_service.conf PGSERVICE=opm
  psql --no-psqlrc --set=secrets=/etc/opm/secrets --file=deploy/postgres/roles.sql
  systemctl start "opm-migrate@$1"
  psql --no-psqlrc --file=deploy/postgres/grants.sql
fi
ln --symbolic --force --no-dereference "$1" /opt/opm/current

# Workers first: a new worker can read the jobs of an old ingress, but not the other way round. `restart` ends when the new
# process is ready.
for pattern in 'opm-worker@*' 'opm-ingress@*' opm-console.service; do
  for unit in $(systemctl list-units --plain --no-legend --state=active "$pattern" | cut --delimiter=' ' --fields=1); do
    systemctl restart "$unit"
  done
done
