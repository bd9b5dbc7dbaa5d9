#!/bin/sh
# Services roles and grants in docker-compose.yml: psql as the superuser, with the password from a file, so that it is in no
# command line.
export PGHOST=postgres PGUSER=opm PGDATABASE=opm
PGPASSWORD=$(cat /run/secrets/postgres-password) exec psql --no-psqlrc "$@"
