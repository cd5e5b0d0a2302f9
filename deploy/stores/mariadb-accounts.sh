#!/bin/sh
# Gives MariaDB the database and the accounts of accounts.sql, with passwords from the environment.
#
# In the official mariadb image: put this file, not executable, into /docker-entrypoint-initdb.d. The image's own script
# reads it in (an executable one would be run, and have no way to the server) when the data directory is still empty.
# For any other MariaDB:   sh mariadb-accounts.sh print | mariadb -h db -u root -p
#
# USHER_DATABASE_PASSWORD             of the account `usher`
# USHER_MIGRATION_DATABASE_PASSWORD   of the account `usher_migrate`
# …_FILE                              a file that holds the password, in place of either; a password is plain ASCII, since
#                                     clients do not agree on how to send anything else
# USHER_ACCOUNTS_HOST                 from where they may come, as MariaDB writes it; % (anywhere) unless given
# USHER_ACCOUNTS_SQL                  where accounts.sql is; beside this file unless given. Not in the image's folder: there
#                                     it would be run by itself, without passwords

# Everything happens in subshells, since the image goes on with its own work afterwards.

usher_complain() {
  echo "mariadb-accounts.sh: $*" >&2
}

# A text as an SQL literal. Nothing in hexadecimal digits can end a literal, whatever the text and the server's mode.
usher_literal() {
  printf "CONVERT(X'%s' USING utf8mb4)" "$(printf %s "$1" | od -An -v -tx1 | tr -d ' \n')"
}

# The password in a variable, or in the file that the variable with _FILE names, as an SQL literal.
usher_password() (
  eval "value=\${$1:-} file=\${$1_FILE:-}"
  if [ -z "$value" ] && [ -n "$file" ]; then
    value=$(cat "$file") || exit 1
  fi
  if [ -z "$value" ]; then
    usher_complain "$1 or $1_FILE must be set"
    exit 1
  fi
  usher_literal "$value"
)

# What the server is to run; nothing if anything is missing.
usher_accounts() (
  sql=${USHER_ACCOUNTS_SQL:-$(dirname "${BASH_SOURCE:-$0}")/accounts.sql}
  if [ ! -r "$sql" ]; then
    usher_complain "there is no $sql; USHER_ACCOUNTS_SQL says where accounts.sql is"
    exit 1
  fi
  password=$(usher_password USHER_DATABASE_PASSWORD) || exit 1
  migrate_password=$(usher_password USHER_MIGRATION_DATABASE_PASSWORD) || exit 1
  host=$(usher_literal "${USHER_ACCOUNTS_HOST:-%}")
  echo "SET @usher_host = $host, @usher_password = $password, @usher_migrate_password = $migrate_password;"
  cat "$sql"
)

if command -v docker_process_sql >/dev/null; then
  usher_accounts | docker_process_sql || exit 1
elif [ "${1:-}" = print ]; then
  usher_accounts
else
  usher_complain "must be read in by the image's script (take its executable bit away), or run with the word print"
  exit 1
fi
