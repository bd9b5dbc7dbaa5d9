#!/bin/sh
# Services redis-node-1 to redis-node-6 in docker-compose.yml: starts a node of the Redis Cluster with the server's command in
# the arguments. The working directory is /data, where Redis keeps nodes.conf.
trap exit TERM
host=$(uname -n)
nodes='redis-node-1 redis-node-2 redis-node-3 redis-node-4 redis-node-5 redis-node-6'

if [ -s nodes.conf ]; then
  # Docker may have assigned other addresses, even swapped them among the nodes: a replica could then copy a wrong
  # master.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    # shellcheck disable=SC2046,SC2086 # one argument for each node
    getent ahostsv4 $(printf '%s.cluster ' $nodes) >/dev/null && break
    sleep 1 & wait $!
  done
  for node in $nodes; do
    # Of its addresses, the one in the nodes' own network.
    address=$(getent ahostsv4 "$node.cluster" | awk '{ print $1; exit }')
    old=redis-${node#redis-node-} # the hostname in releases before
    [ "$address" ] && echo "s/ [^ ]*,\($node\|$old\),/ $address:6379@16379,$node,/"
  done | sed -f - nodes.conf >nodes.conf.new && sync nodes.conf.new && mv nodes.conf.new nodes.conf || exit
  # Lets a restarted replica replace its master however long it has not heard from it.
  set -- "$@" --cluster-replica-validity-factor 0
else
  # A node without its volume must not return before its replica has been promoted: the replica would copy the empty
  # node. So the node waits 20 s, and longer while another node lists slots for it or is itself loading; at most five
  # minutes.
  begin=$(date +%s)
  until=$((begin + 20))
  while now=$(date +%s); [ "$now" -lt "$until" ] && [ "$now" -lt $((begin + 300)) ]; do
    for node in $nodes; do
      [ "$node" = "$host" ] || timeout 2 opm-redis-cli -h "$node" cluster nodes
    done 2>&1 | grep -Eq "LOADING|,$host [^ ]*master.* [0-9]+(-[0-9]+)?$" &&
      until=$((now + 15 > until ? now + 15 : until)) # longer than one round of queries
    sleep 1 & wait $!
  done
fi

(umask 077; printf 'masteruser replication\nmasterauth %s\n' "$(cat /run/secrets/redis-replication-password)" >/tmp/replication.conf)
exec docker-entrypoint.sh "$@" --cluster-announce-hostname "$host"
