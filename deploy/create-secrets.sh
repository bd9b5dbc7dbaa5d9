#!/bin/sh
# Makes the passwords of docker-compose.yml, a file each in secrets/ beside it. Files that exist stay, so it can be repeated:
# to change a password, delete its file first (docs/secrets.md). With --cluster, the URLs of Redis name the nodes of the
# profile `cluster`.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets

# The folder keeps others out; the files are mounted, and the users of the containers must read them. An existing file keeps
# its inode, so running containers see its new content.
put() { # put NAME: from stdin
  cat >"secrets/$1.new"
  if [ -e "secrets/$1" ]; then cat "secrets/$1.new" >"secrets/$1" && rm "secrets/$1.new"; else mv "secrets/$1.new" "secrets/$1"; fi
  chmod 644 "secrets/$1"
  echo "secrets/$1"
}
# NAME=VALUE of an .env, without quotes; nothing if it is not there. Ends with an error if Compose could read the line otherwise.
setting() {
  line=$(grep -Es "^[[:space:]]*(export[[:space:]]+)?$1[[:space:]]*=" .env | tail -n 1)
  [ -n "$line" ] || return 0
  value=$(printf '%s\n' "$line" | sed -En "s/^$1=(\"([^\"'\\$]*)\"|'([^']*)'|([^\"'[:space:]#\\$]*))\$/=\\2\\3\\4/p")
  [ -n "$value" ] || { echo ".env: write $1=VALUE in its own line, without spaces, comments, \$ and \\" >&2; exit 1; }
  printf %s "${value#=}"
}
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
# The password in a URL, of which there may be several. One with %41 for A is another Redis's, without this file of users.
in_url() { sed 's|^[^:]*://[^:]*:\([^@]*\)@.*|\1|' "secrets/$1"; }

# Before secrets/ existed, these two were in .env.
for name in postgres console; do
  [ -e "secrets/$name-password" ] && continue
  password=$(setting "$(echo "$name" | tr '[:lower:]' '[:upper:]')_PASSWORD")
  printf %s "${password:-$(random)}" | put "$name-password"
done
for name in backup redis-operator redis-replication; do
  [ -e "secrets/$name-password" ] || random | put "$name-password"
done
for name in owner ingress worker console opm; do
  role=opm_$name
  [ "$name" = opm ] && role=opm_cli
  [ -e "secrets/$name-database-url" ] || printf %s "postgresql://$role:$(random)@postgres:5432/opm" | put "$name-database-url"
done

nodes=redis
if [ "${1:-}" = --cluster ] || grep -qs @redis-node-1: secrets/*-redis-url; then
  nodes='redis-node-1 redis-node-2 redis-node-3'
fi
for name in ingress worker console opm; do
  file=$name-redis-url
  if [ ! -e "secrets/$file" ]; then
    password=$(random)
  elif [ "$nodes" != redis ] && grep -q '@redis:6379$' "secrets/$file"; then
    password=$(in_url "$file")
  else
    continue
  fi
  urls=
  for node in $nodes; do urls="$urls,redis://$name:$password@$node:6379"; done
  printf %s "${urls#,}" | put "$file"
done

# Made anew each time, because a new version may have other rules.
prefix=$(setting REDIS_PREFIX)
case $prefix in *[!A-Za-z0-9_:.-]*)
  echo '.env: REDIS_PREFIX may have letters, digits, _, :, . and -, because the users of Redis are limited to it' >&2
  exit 1 ;;
esac
acl=$(sed '/^#/d' deploy/redis/users.acl | sed "s/{opm-/{${prefix:-opm}-/g")
for name in ingress worker console opm operator replication; do
  case $name in
    operator | replication) password=$(cat "secrets/redis-$name-password") ;;
    *) password=$(in_url "$name-redis-url") ;;
  esac
  hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
  acl=$(echo "$acl" | sed "s/#$(echo "$name" | tr '[:lower:]' '[:upper:]')_SHA256/#$hash/")
done
[ "$acl" = "$(cat secrets/redis-users.acl 2>/dev/null)" ] || echo "$acl" | put redis-users.acl
chmod 644 secrets/* # a run before may have been killed, or the folder restored

if grep -qs '^[A-Z_]*PASSWORD=.' .env || grep -qs '^APP_REDIS_URL=' .env; then
  echo 'Delete from .env what secrets/ replaces: POSTGRES_PASSWORD, POSTGRES_APP_PASSWORD, REDIS_PASSWORD, CONSOLE_PASSWORD, APP_REDIS_URL.'
fi
