#!/bin/sh
# Kills each process of this machine that does not answer /livez within 20 s; its unit starts it again. kill-frozen-opm.timer
# runs this once a minute. A process that is not ready because a store is down still answers /livez; it recovers by itself.
set -eu

ask='fetch(process.argv[1], { signal: AbortSignal.timeout(20000) }).catch(() => process.exit(1))'
systemctl list-units --plain --no-legend --state=active 'opm-ingress@*' 'opm-worker@*' opm-console.service |
  while read -r unit _; do
    name=${unit%.service}
    case $name in
      opm-ingress@*) port=1${name#*@} ;;
      opm-worker@*) port=${name#*@} ;;
      *) port=9402 ;;
    esac
    node -e "$ask" "http://${INTERNAL_HOST:-127.0.0.1}:$port/livez" </dev/null ||
      systemctl kill --signal=KILL "$unit"
  done
