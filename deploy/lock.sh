#!/bin/sh
# Compiles the lock files for every platform and for Python 3.11 and later, with hashes and without index addresses.
# Versions stay as they are unless pyproject.toml asks for others; --upgrade takes the newest.
set -eu
cd "$(dirname "$0")/.."
compile() {
    .venv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" "$@"
}
compile "$@" --extra uvloop pyproject.toml --output-file requirements/run.txt
compile "$@" --extra uvloop --group dev --constraints requirements/run.txt pyproject.toml \
    --output-file requirements/dev.txt
compile "$@" --group bench --constraints requirements/dev.txt --output-file requirements/bench.txt
compile "$@" --group build --constraints requirements/dev.txt --output-file requirements/build.txt
# Installed first, by whatever pip there is: an old pip takes twice as long for the rest.
echo pip | compile "$@" - --output-file requirements/pip.txt
