#!/bin/sh
# Lints the Dockerfile, compose.yaml and the Kubernetes manifests in deploy/, or in the folder named; silent when all is well.
# Nothing is fetched: the linters bring their schemas. BIN is where they are.
set -u
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-$here}
bin=${BIN:-$here/../.venv/bin}
status=0

# Runs a linter that says something only of faults. A manifest of an unknown kind is a mere warning to kubernetes-validate,
# with status 0, so whatever is said counts as a fault.
silent() {
  said=$("$@" 2>&1) && [ -z "$said" ] && return
  printf '%s\n' "${said:-$1 failed}" >&2
  status=1
}

silent "$bin/hadolint" --no-color "$folder/Dockerfile"

# Its --quiet hides what is wrong, too.
if ! said=$("$bin/check-jsonschema" --color never --builtin-schema vendor.compose-spec "$folder/compose.yaml" 2>&1); then
  printf '%s\n' "$said" >&2
  status=1
fi

set --
for manifest in "$folder"/kubernetes/*/*.yaml; do
  case $manifest in
    */kustomization.yaml) ;;
    *) set -- "$@" "$manifest" ;;
  esac
done
# The oldest Kubernetes that knows every field in use, and the newest one that the linter knows.
silent "$bin/kubernetes-validate" --strict --quiet --kubernetes-version 1.27.0 "$@"
silent "$bin/kubernetes-validate" --strict --quiet "$@"

exit $status
