#!/bin/sh
# Writes deploy/.env for deploy/compose.yaml: compose.env.example with a random password after each `=` that is empty.
# A file that is there stays as it is, since MariaDB's volume knows its passwords.
set -eu
umask 077
cd "$(dirname "$0")"
if [ -e .env ]; then
  echo "compose-env.sh: deploy/.env is there already and stays as it is" >&2
  exit 1
fi
while IFS= read -r line; do
  case $line in
    \#*) ;;
    # 24 random bytes are 32 characters; those that mean something in a URL are exchanged.
    *=) line=$line$(head -c 24 /dev/urandom | base64 | tr '+/' '-_') ;;
  esac
  printf '%s\n' "$line"
done <compose.env.example >.env.part
mv .env.part .env
