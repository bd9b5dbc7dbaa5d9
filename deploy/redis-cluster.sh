#!/bin/sh
# Service redis-cluster in docker-compose.yml: creates a cluster of three masters and three replicas once, if all six
# nodes are new. After that, introduces nodes with new volumes to the others, and lets each follow a master that has lost its
# replica. The file /tmp/complete exists while all slots are served by three masters with a replica each.
# shellcheck disable=SC2046,SC2086 # one argument for each node or address
trap exit TERM
nodes='redis-node-1 redis-node-2 redis-node-3 redis-node-4 redis-node-5 redis-node-6'
rm -f /tmp/complete
until=$(($(date +%s) + 300))
ask() { timeout 2 opm-redis-cli -h "$@"; }

is_complete() {
  echo "$infos" | grep -q '^cluster_slots_ok:16384' &&
    [ "$(for node in $nodes; do ask "$node" info replication; done |
      grep -c '^min_slaves_good_slaves:[1-9]')" = 3 ]
}

# Of the list of nodes in stdin, the id of a master with slots that no node follows, if the node that wrote the list is a
# master without slots.
find_master() {
  awk '
    $3 ~ /fail|noaddr/ { next }
    $3 ~ /myself,master/ && NF == 8 { empty = 1 }
    $3 ~ /master/ && NF > 8 { masters[$1] }
    { followed[$4] }
    END { if (empty) for (id in masters) if (!(id in followed)) { print id; exit } }'
}

while true; do
  addresses=$(getent ahostsv4 $nodes | awk '/STREAM/ { print $1 }')
  infos=$(for node in $nodes; do ask "$node" cluster info; done)
  if is_complete; then
    touch /tmp/complete
  # An incomplete cluster restarts this container, and again every five minutes. So Docker calls it starting and not
  # unhealthy, and `docker compose up --wait` waits for the repair.
  elif [ -e /tmp/complete ] || [ "$(date +%s)" -gt "$until" ]; then
    exit 1
  elif [ "$(echo "$infos" | grep -c '^cluster_known_nodes:1\b')" = 6 ]; then
    opm-redis-cli --cluster create $(printf '%s:6379 ' $addresses) --cluster-replicas 1 --cluster-yes
  elif echo "$infos" | grep -q '^cluster_slots_assigned:16384'; then
    for node in $addresses; do
      known=$(ask "$node" cluster nodes) || continue
      for address in $addresses; do
        echo "$known" | grep -q " $address:6379@" || ask "$node" cluster meet "$address" 6379
      done
      master=$(echo "$known" | find_master)
      [ "$master" ] && ask "$node" cluster replicate "$master"
    done
  fi
  sleep 5 & wait $!
done
