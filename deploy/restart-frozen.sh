#!/bin/sh
# Restarts each container whose process is frozen: it is unhealthy and does not answer /livez either. For cron, once a minute.
# One that is unhealthy because a store is away still answers /livez; it recovers by itself, and is left alone.
set -eu
cd "$(dirname "$0")/.."

ask='fetch("http://127.0.0.1:9400/livez", { signal: AbortSignal.timeout(5000) }).catch(() => process.exit(1))'
for container in $(docker compose ps --quiet ingress worker console); do
  [ "$(docker inspect --format '{{.State.Health.Status}}' "$container")" = unhealthy ] || continue
  docker exec "$container" node -e "$ask" || docker restart --time 1 "$container"
done
