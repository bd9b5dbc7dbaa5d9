#!/bin/sh
# Restarts each container whose process is frozen, which is unhealthy and does not answer /livez. Run it from cron, once
# a minute. A container that is unhealthy because a store is down still answers /livez; it recovers by itself and keeps
# running.
set -eu
cd "$(dirname "$0")/.."

ask='fetch("http://127.0.0.1:9400/livez", { signal: AbortSignal.timeout(5000) }).catch(() => process.exit(1))'
for container in $(docker compose ps --quiet ingress worker console); do
  [ "$(docker inspect --format '{{.State.Health.Status}}' "$container")" = unhealthy ] || continue
  docker exec "$container" node -e "$ask" || docker restart --time 1 "$container"
done
