#!/bin/sh
# In the containers of Redis as `opm-redis-cli`: redis-cli as the user who may do everything, with the password from a file,
# so that it is in no command line. For operators: docker compose exec redis opm-redis-cli info memory
REDISCLI_AUTH=$(cat /run/secrets/redis-operator-password) exec redis-cli --user operator "$@"
