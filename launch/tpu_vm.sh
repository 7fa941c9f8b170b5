#!/usr/bin/env bash
# Runs totojax on Cloud TPU VMs: the door to tpu_vm.py, whose --help says how.
set -euo pipefail

self=${BASH_SOURCE[0]}
while [[ -L $self ]]; do # it may be called by a link
  link=$(readlink "$self")
  [[ $link == /* ]] || link=$(dirname "$self")/$link
  self=$link
done
here=$(cd "$(dirname "$self")" && pwd)
# gcloud needs a Python too, of 3.9 or newer; nothing else is asked of it.
for python in python3 python; do
  if command -v "$python" >/dev/null \
    && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
    exec "$python" "$here/tpu_vm.py" "$@"
  fi
done
echo "tpu_vm: no Python of 3.9 or newer is on PATH" >&2
exit 1
