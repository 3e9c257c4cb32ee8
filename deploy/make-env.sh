#!/bin/sh
# Makes .env, where docker-compose.yml takes its secrets from: each its own, from the system's random numbers, readable by you alone.
# One that is there already stays.
set -eu
cd "$(dirname "$0")/.."
if [ -e .env ]; then
    echo "$0: .env is there already; remove it first if you want other secrets" >&2
    exit 1
fi
umask 077
# A letter first: the configuration of NATS takes what looks like a number for one.
secret() { printf 'p%s\n' "$(od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n')"; }
cat >.env <<EOF
# Signs the tokens of clients: your backend does, or the command: tidegate token.
TIDEGATE_AUTH__HS256_SECRET=$(secret)

# Of the users in deploy/nats/permissions.conf, and of the routes between the servers.
NATS_EDGE_PASSWORD=$(secret)
NATS_SHOP_PASSWORD=$(secret)
NATS_ADMIN_PASSWORD=$(secret)
NATS_ROUTE_PASSWORD=$(secret)

# Whose certs/dev.key is, which nobody else may read.
TIDEGATE_UID=$(id -u)
TIDEGATE_GID=$(id -g)
EOF
