#!/usr/bin/env bash
# In a container: runs totojax with these flags, and ends with 0 only once the run is finished.
#
# At SIGTERM totojax saves and leaves with 0, which Kubernetes would take for the
# end of the run: without done.json in --workdir this ends with 75, "start me again".
set -u
workdir=
for flag in "$@"; do
  if [[ $flag == --workdir=* ]]; then workdir=${flag#--workdir=}; fi
done
if [[ -z $workdir ]]; then
  echo "to_the_end: --workdir=FOLDER is missing" >&2
  exit 2
fi
totojax "$@" &
main=$!
trap 'kill -TERM $main' TERM INT
while kill -0 $main 2>/dev/null; do wait $main; done
wait $main
code=$?
if [[ $code -eq 0 ]]; then
  python - "$workdir" <<'PY' || code=75
import sys
from etils import epath
import totojax.storage.paths  # gs://
sys.exit(not (epath.Path(sys.argv[1]) / "done.json").exists())
PY
fi
exit "$code"
