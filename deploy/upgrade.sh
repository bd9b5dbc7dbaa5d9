#!/bin/sh
# Builds this folder's version under the IMAGE_TAG of .env, migrates, and replaces all processes.
# For zero downtime, set twice as many ports in PORT as there are ingresses, and put deploy/nginx.conf in front.
set -eu
cd "$(dirname "$0")/.."

# Longer than a proxy skips a server after a failure: 10 s in nginx, unless max_fails=0.
PROXY_WINDOW_SECONDS=11

# The old version answers until its containers are replaced. A failed migration ends the upgrade here.
docker compose build --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
deploy/create-secrets.sh # for what the new version has in addition
for redis in $(docker compose ps --services | grep -E '^redis(-node-.)?$'); do
  docker compose exec --no-TTY "$redis" opm-redis-cli -e acl load
done
docker compose up roles migrate grants
[ "$(docker wait "$(docker compose ps --all --quiet grants)")" = 0 ]

# Their folders are mounted, so `up` does not see that a file in them has changed.
running=$(docker compose ps --services)
if echo "$running" | grep -qx prometheus; then docker compose kill --signal HUP prometheus; fi
if echo "$running" | grep -qx backup; then docker compose restart backup; fi

# Workers first: a new worker can read the jobs of an old ingress, but not the other way round.
docker compose up --wait worker

ports=$(docker compose config ingress | sed -n '/target: 3000$/{n;s/.*published: "\{0,1\}\([0-9-]*\).*/\1/p;}')
old=$(docker compose ps --quiet ingress)
count=$(echo "$old" | grep -c . || true)
if [ "$count" = 0 ] || [ $((${ports#*-} - ${ports%-*} + 1)) -lt $((count * 2)) ]; then
  echo "PORT=$ports has no free ports for $count more ingresses; entries are refused while all ingresses restart" >&2
  docker compose up --wait
  exit
fi

if ! docker compose up --wait --no-recreate --scale "ingress=$((count * 2))" ingress; then
  docker compose ps --all --quiet ingress | grep -vF "$old" | xargs docker rm --force
  echo 'the new ingresses did not become healthy and were removed; the old ones still answer' >&2
  exit 1
fi
sleep "$PROXY_WINDOW_SECONDS"
for container in $old; do
  docker stop "$container"
  docker rm "$container"
done
docker compose up --wait
