#!/bin/sh
# Starts Redis (or Valkey) with redis.conf and the accounts of users.acl, which lie beside this file; for containers.
# Arguments go to redis-server, as in `redis-server.sh --port 6380`.
#
# USHER_REDIS_PASSWORD      of the account `usher`, for the service
# REDIS_OPERATOR_PASSWORD   of the account `operator`, for people
# …_FILE                    a file that holds the password, in place of either
# REDIS_ACL_FOLDER          where the accounts are written, with the passwords' SHA-256; may be in memory. The working
#                           directory unless given

set -eu
umask 077

# The SHA-256 of the password in a variable, or in the file that the variable with _FILE names.
digest() {
  eval "value=\${$1:-} file=\${$1_FILE:-}"
  if [ -z "$value" ] && [ -n "$file" ]; then
    value=$(cat "$file")
  fi
  if [ -z "$value" ]; then
    echo "redis-server.sh: $1 or $1_FILE must be set" >&2
    exit 1
  fi
  printf %s "$value" | sha256sum | cut -c 1-64
}

here=$(cd "$(dirname "$0")" && pwd)
users=${REDIS_ACL_FOLDER:-$(pwd)}/users.acl
service=$(digest USHER_REDIS_PASSWORD)
operator=$(digest REDIS_OPERATOR_PASSWORD)

awk -v service="$service" -v operator="$operator" '
  /^ *(#|$)/ { next }
  /^[^ ]/ && lines++ { printf "\n" }
  {
    gsub("@USHER_REDIS_PASSWORD_SHA256@", service)
    gsub("@REDIS_OPERATOR_PASSWORD_SHA256@", operator)
    sub(/^ +/, " ")
    printf "%s", $0
  }
  END { printf "\n" }
' "$here/users.acl" >"$users"

# Redis has no use for them, and its environment can be read in /proc.
unset USHER_REDIS_PASSWORD REDIS_OPERATOR_PASSWORD
exec redis-server "$here/redis.conf" --aclfile "$users" "$@"
