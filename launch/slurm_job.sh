#!/usr/bin/env bash
# The part of a job's script that is the same for all runs on Slurm: slurm.py writes what is above it.
#
# Whatever ends before the work directory has done.json is requeued by itself, and
# goes on from its checkpoint. What ends it for good: it is done, `slurm.sh stop`,
# a failure of its own without a new checkpoint, and too many others in a row.
set -u
: "${python:?} ${folder:?} ${workdir:?} ${tries:?} ${nodes:?} ${cpus?} ${flags[0]:?}"

say() { echo "slurm: $(date -u +%FT%TZ) $*"; }

seen() { # "done", or a digest of all checkpoints, units and stages that there are
  if [[ $workdir != gs://* ]]; then
    if [[ -e $workdir/done.json ]]; then
      echo "done"
    else
      find "$workdir" -regex '.*/checkpoints/[0-9]+\|.*/\.units/[0-9]+\.json\|.*/done\.json' 2>/dev/null \
        | sort | cksum
    fi
    return
  fi
  "$python" - "$workdir" <<'PY'
import re, sys, zlib
from totojax.storage import objects, paths

names = sorted(objects.keys(paths.ObjectPath(sys.argv[1])))
form = r"checkpoints/\d+/commit_success\.txt$|\.units/\d+\.json$|done\.json$"
text = "\n".join(name for name in names if re.search(form, name))
print("done" if "done.json" in names else zlib.crc32(text.encode()))
PY
}

state() { # RUNNING, unless Slurm is ending this job already: by itself or by scancel
  squeue --noheader --format=%T --jobs="$SLURM_JOB_ID" 2>/dev/null
}

# shellcheck disable=SC2329 # the trap calls it
leave() { # Asks the run to save and to leave.
  asked=yes
  if [[ $(state) == RUNNING ]]; then timeout 20 scancel --signal=TERM "$SLURM_JOB_ID" 2>/dev/null & fi
}

requeue() {
  say "$1"
  if [[ $(state) == RUNNING ]] && scontrol requeue "$SLURM_JOB_ID"; then
    sleep 300 # which Slurm ends
  fi
  exit 75
}

if [[ $(seen) == "done" ]]; then
  say "finished: $workdir"
  exit 0
fi
if [[ -e $folder/stop ]]; then
  say "stopped (slurm.sh stop); slurm.sh run goes on"
  exit 0
fi
say "job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1))"
before=$(seen)
asked=
# Before the time limit (--signal) the batch shell alone is told, and srun would kill at once.
trap leave TERM
rm -f "$folder"/status.*
export folder
# shellcheck disable=SC2016 # each task expands it
each='trap : TERM
"$@" &
while kill -0 $! 2>/dev/null; do wait $!; done
wait $!
code=$?
echo $code >"$folder/status.$SLURM_PROCID"
exit $code'
more=()
[[ -n $cpus ]] && more=("--cpus-per-task=$cpus")
[[ $nodes -gt 1 ]] && flags=(--multihost "${flags[@]}")
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 "${more[@]}" \
  bash -c "$each" totojax "$python" -m totojax.main "${flags[@]}" &
step=$!
while kill -0 $step 2>/dev/null; do wait $step; done
wait $step
status=$?

now=$(seen)
if [[ $now == "done" ]]; then
  say "finished: $workdir"
  exit 0
fi
if [[ -e $folder/stop ]]; then
  say "stopped (slurm.sh stop); slurm.sh run goes on"
  exit 0
fi
own= # a status that is the run's own: no other process was lost, and no signal came
for file in "$folder"/status.*; do
  code=$(cat "$file" 2>/dev/null)
  if [[ ${code:-0} -gt 0 && $code -lt 128 && $code -ne 75 ]]; then own=$code; fi
done
read -r count 2>/dev/null <"$folder/tries" || count=0
if [[ $now != "$before" ]]; then
  count=0
elif [[ -n $own ]]; then
  say "failed ($own) without a new checkpoint: see above; slurm.sh run tries again"
  exit "$own"
fi
if [[ -z $asked || -n $own ]]; then # nobody asked it to leave
  count=$((count + 1))
fi
echo "$count" >"$folder/tries.part" && mv "$folder/tries.part" "$folder/tries"
if [[ $count -ge $tries ]]; then
  say "$count failures in a row without a new checkpoint (--tries); the last status: $status"
  exit 75
fi
requeue "left with $status before its end${asked:+, as asked}; $count of $tries failures in a row"
