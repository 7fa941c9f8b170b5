#!/usr/bin/env bash
# The door to the scripts of this folder: NAME.sh is a link to it, and calls NAME.py, whose --help says how.
set -euo pipefail

self=${BASH_SOURCE[0]} names=()
# It may be called by a link of one's own.
while name=${self##*/} && names+=("${name%.sh}") && [[ -L $self ]]; do
  link=$(readlink "$self")
  [[ $link == /* ]] || link=$(dirname "$self")/$link
  self=$link
done
here=$(cd "$(dirname "$self")" && pwd)
for name in "${names[@]}"; do # the last that is a script here
  [[ -e $here/$name.py ]] && script=$name
done
if [[ -z ${script:-} ]]; then
  echo "door: call tpu_vm.sh, slurm.sh, ssh.sh, container.sh or gke.sh" >&2
  exit 2
fi
# gcloud needs a Python too, of 3.9 or newer; nothing else is asked of it.
for python in python3 python; do
  if command -v "$python" >/dev/null \
    && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
    exec "$python" "$here/$script.py" "$@"
  fi
done
echo "$script: no Python of 3.9 or newer is on PATH" >&2
exit 1
