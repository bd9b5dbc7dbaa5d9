#!/bin/sh
# Service redis-cluster in docker-compose.yml: creates a cluster of three masters and three replicas once, if all six
# nodes are new. After that, introduces nodes with new volumes to the others.
# shellcheck disable=SC2046,SC2086 # one argument for each node or address
trap exit TERM
nodes='redis-1 redis-2 redis-3 redis-4 redis-5 redis-6'

while true; do
  addresses=$(getent ahostsv4 $nodes | awk '/STREAM/ { print $1 }')
  infos=$(for node in $nodes; do redis-cli -h "$node" cluster info; done)
  if [ "$(echo "$infos" | grep -c '^cluster_known_nodes:1\b')" = 6 ]; then
    redis-cli --cluster create $(printf '%s:6379 ' $addresses) --cluster-replicas 1 --cluster-yes
  elif echo "$infos" | grep -q '^cluster_slots_assigned:16384'; then
    for node in $addresses; do
      known=$(redis-cli -h "$node" cluster nodes) || continue
      for address in $addresses; do
        echo "$known" | grep -q " $address:6379@" || redis-cli -h "$node" cluster meet "$address" 6379
      done
    done
  fi
  sleep 5 & wait $!
done
