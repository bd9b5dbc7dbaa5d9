#!/bin/sh
# Moves this machine to the version in /opt/opm/VERSION. The old version answers until its processes are replaced, one by one.
# The first failure ends the upgrade; processes that are not replaced yet go on with the old version.
#
#   upgrade.sh VERSION [workers]    with `workers`, replaces only them
set -eu
case ${2:-all} in all | workers) ;; *) echo 'upgrade.sh VERSION [workers]' >&2; exit 1 ;; esac
cd "/opt/opm/$1"

use() { ln --symbolic --force --no-dereference "$1" "/opt/opm/$2"; }
# The workers' unit needs their link: if the upgrade ends early, they must be able to start again, with the old version.
if [ -e /opt/opm/current ] && [ ! -e /opt/opm/current-workers ]; then use "$(readlink /opt/opm/current)" current-workers; fi

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

replace() { # `restart` ends when the new process is ready.
  for unit in $(systemctl list-units --plain --no-legend --state=active "$1" | cut --delimiter=' ' --fields=1); do
    systemctl restart "$unit"
  done
}
# Workers first, on all machines: a new worker can read the jobs of an old ingress, but not the other way round. They have
# their own link, so that an ingress that restarts meanwhile keeps its version.
use "$1" current-workers
replace 'opm-worker@*'
[ "${2:-all}" = all ] || exit 0
use "$1" current
replace 'opm-ingress@*'
replace opm-console.service
