#!/bin/sh
# Builds the version of this folder under the IMAGE_TAG of .env, migrates, and replaces all processes.
# With twice as many ports in PORT as there are ingresses, and deploy/nginx.conf in front, every request is answered meanwhile.
set -eu
cd "$(dirname "$0")/.."

# Longer than a proxy leaves out a server that has failed it: 10 s in nginx, unless it has max_fails=0.
PROXY_WINDOW_SECONDS=11

# The containers are replaced while the old version answers; a failed migration ends the upgrade here.
docker compose build
docker compose up migrate
[ "$(docker wait "$(docker compose ps --all --quiet migrate)")" = 0 ]

ports=$(docker compose config ingress | sed -n '/target: 3000$/{n;s/.*published: "\{0,1\}\([0-9-]*\).*/\1/p;}')
old=$(docker compose ps --quiet ingress)
count=$(echo "$old" | grep -c . || true)
if [ "$count" = 0 ] || [ $((${ports#*-} - ${ports%-*} + 1)) -lt $((count * 2)) ]; then
  echo "PORT=$ports has no room for $count more ingresses: entries are refused while they restart" >&2
  docker compose up --wait
  exit
fi

# Workers first: they can read what older ingresses have queued, and not the other way round.
docker compose up --wait worker
if ! docker compose up --wait --no-recreate --scale "ingress=$((count * 2))" ingress; then
  docker compose ps --all --quiet ingress | grep -vF "$old" | xargs docker rm --force
  echo 'the new ingresses did not become healthy and are removed; the old ones still answer' >&2
  exit 1
fi
sleep "$PROXY_WINDOW_SECONDS"
for container in $old; do
  docker stop "$container"
  docker rm "$container"
done
docker compose up --wait
