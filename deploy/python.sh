#!/bin/sh
# Runs the first Python that is new enough, in the project's folder, with the arguments given.
# PYTHON=/path/to/python names the one to take.
set -eu
cd "$(dirname "$0")/.."
for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" "$@"
    fi
done
echo "usher: Python 3.11 or later is needed and was not found (looked for: ${PYTHON:-python3, python3.11 to python3.14})." \
    "Install it, or name it: PYTHON=/path/to/python3.12 make ..." >&2
exit 1
