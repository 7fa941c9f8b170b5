#!/usr/bin/env bash
# Runs totojax on a TPU VM or pod slice, and keeps it running.
set -euo pipefail
exec 3>&1 # where commands are printed, also while output is captured

usage() {
  cat <<'TEXT'
Runs totojax on a Cloud TPU VM or pod slice, and keeps it running.

  launch/tpu_vm.sh COMMAND --name NAME --zone ZONE [options] [-- FLAGS]

Commands
  run      create the TPU if need be, install, start, watch until finished; a
           preempted TPU is recreated and the run goes on from its checkpoint.
           Safe to stop and to repeat: it attaches to a run that is under way.
  create   create the TPU and wait until it is ready
  install  copy this project to every worker and install it there
  stop     ask the run to save a checkpoint and leave
  status   state of the TPU and of the run
  logs     follow the log of one worker
  delete   delete the TPU

Options
  --name NAME        of the TPU (and of its queued resource)
  --zone ZONE        such as us-central2-b
  --type TYPE        such as v5litepod-256 (run, create)
  --config FILE      such as configs/1b.py (run)
  --workdir URL      gs://bucket/folder of the run, which outlives the TPU (run)
  --spot             cheaper, may be preempted
  --direct           create the TPU VM itself, not through a queued resource
  --runtime VERSION  of the TPU software; default: by type
  --project PROJECT  default: gcloud's own
  --worker N         whose log (logs); default 0
  --poll SECONDS     between looks at the state; default 60
  --delete-when-done delete the TPU once the run has finished (run)
  --dry-run          print every command and run none
  --help             this text

FLAGS after -- go to totojax, as --config.optim.lr=1e-4.

  launch/tpu_vm.sh run --name toto --zone us-central2-b --type v5litepod-256 \
    --spot --config configs/1b.py --workdir gs://bucket/toto-1b
TEXT
}

say() { printf '%s\n' "tpu_vm: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# --- Arguments ---------------------------------------------------------------

command="" name="" zone="" type="" config="" workdir="" runtime="" project=""
worker=0 poll_s=60 spot=no direct=no delete_when_done=no dry_run=no
flags=() place=()

parse() {
  while (($#)); do
    case $1 in
      --name | --zone | --type | --config | --workdir | --runtime | \
        --project | --worker | --poll)
        [[ $# -gt 1 && -n $2 && $2 != --* ]] || die "$1 needs a value; see --help"
        case $1 in
          --name) name=$2 ;;
          --zone) zone=$2 ;;
          --type) type=$2 ;;
          --config) config=$2 ;;
          --workdir) workdir=${2%/} ;;
          --runtime) runtime=$2 ;;
          --project) project=$2 ;;
          --worker) worker=$2 ;;
          --poll) poll_s=$2 ;;
        esac
        shift 2
        ;;
      --spot) spot=yes && shift ;;
      --direct) direct=yes && shift ;;
      --delete-when-done) delete_when_done=yes && shift ;;
      --dry-run) dry_run=yes && shift ;;
      --help | -h) usage && exit 0 ;;
      --)
        shift
        flags=("$@")
        break
        ;;
      -*) die "$1 is not an option; flags of totojax go after --; see --help" ;;
      *)
        [[ -z $command ]] || die "$1 is one command too many; see --help"
        command=$1
        shift
        ;;
    esac
  done
}

check() {
  local option missing=() needed=(name zone)
  case $command in
    run) needed+=(type config workdir) ;;
    create) needed+=(type) ;;
    install | stop | status | logs | delete) ;;
    "") usage >&2 && exit 2 ;;
    *) die "$command is not a command; see --help" ;;
  esac
  for option in "${needed[@]}"; do
    [[ -n ${!option} ]] || missing+=("--$option")
  done
  ((!${#missing[@]})) || die "$command needs ${missing[*]}; see --help"
  if [[ $command == run && $workdir != gs://* ]]; then
    die "--workdir is $workdir; it must be gs://, since a TPU's own disk is" \
      "lost with it"
  fi
  ((BASH_VERSINFO[0] >= 5)) || die "bash $BASH_VERSION is too old; use 5"
  [[ $poll_s =~ ^[0-9]+$ ]] || die "--poll is $poll_s; give whole seconds"
  place=("--zone=$zone")
  [[ -z $project ]] || place+=("--project=$project")
  if [[ $dry_run == no ]] && ! command -v gcloud >/dev/null; then
    die "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
  fi
}

# --- Commands: printed, and run unless --dry-run -----------------------------

show() { # quoted where the shell needs it, ready to be copied
  local word line="+"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_.,:=@/-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "$line" >&3
}

# Does something.
call() {
  show "$@"
  [[ $dry_run == yes ]] || "$@"
}

# Asks something; $1 is the answer that a dry run supposes.
ask() {
  local supposed=$1
  shift
  if [[ $dry_run == yes ]]; then
    show "$@"
    printf '%s\n' "$supposed"
  else
    "$@"
  fi
}

pause() {
  if [[ $dry_run == yes ]]; then show sleep "$poll_s"; else sleep "$poll_s"; fi
}

tpus() { call gcloud compute tpus "$@" "${place[@]}" --quiet; }

on_workers() { # WORKER TEXT
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

# --- The TPU -----------------------------------------------------------------

# none, wait, ready or lost; $1 is gcloud's answer that a dry run supposes.
state() {
  local answer kind=queued-resources format="value(state.state)" errors
  [[ $direct == no ]] || kind=tpu-vm format="value(state)"
  errors=$(mktemp)
  answer=$(ask "$1" gcloud compute tpus "$kind" describe "$name" \
    "${place[@]}" --format="$format" 2>"$errors") || answer=NONE
  if [[ $answer == NONE && $dry_run == no ]] \
    && ! grep -qi 'not.found' "$errors"; then
    cat "$errors" >&2
    rm -f "$errors"
    die "gcloud cannot say what state $name is in"
  fi
  rm -f "$errors"
  case $answer in
    NONE) echo none ;;
    ACTIVE | READY) echo ready ;;
    FAILED | SUSPENDED | SUSPENDING | PREEMPTED | TERMINATED | STOPPED)
      echo lost
      ;;
    *) echo wait ;;
  esac
}

runtime_version() {
  if [[ -n $runtime ]]; then
    echo "$runtime"
    return
  fi
  case $type in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) die "no runtime is known for --type $type; give --runtime" ;;
  esac
}

create() {
  local version options=("--accelerator-type=$type")
  version=$(runtime_version)
  [[ $spot == no ]] || options+=(--spot)
  if [[ $direct == yes ]]; then
    tpus tpu-vm create "$name" "${options[@]}" --version="$version"
  else
    tpus queued-resources create "$name" --node-id="$name" "${options[@]}" \
      --runtime-version="$version"
  fi
}

delete() {
  if [[ $direct == yes ]]; then
    tpus tpu-vm delete "$name"
  else
    tpus queued-resources delete "$name" --force
  fi
}

# Leaves a TPU that is ready, made or made anew if need be; sets `fresh`.
fresh=no
ensure() {
  local now supposed=NONE waiting=no
  fresh=no
  while true; do
    now=$(state "$supposed")
    case $now in
      ready) return ;;
      lost)
        say "$name was preempted or has failed; it is made anew"
        delete
        ;;
      none)
        create
        fresh=yes
        supposed=ACTIVE
        ;;
      wait)
        [[ $waiting == yes ]] || say "waiting for $name ..."
        waiting=yes
        pause
        ;;
    esac
  done
}

# --- The run -----------------------------------------------------------------

install() {
  local root archive
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  archive=${TMPDIR:-/tmp}/totojax-$$.tar.gz
  call tar -czf "$archive" --exclude=./.git --exclude=./.venv \
    --exclude=./runs -C "$root" .
  tpus tpu-vm scp "$archive" "$name:totojax.tar.gz" --worker=all
  call rm -f "$archive"
  # The system's Python may be older than the project needs: uv brings its own.
  on_workers all 'set -e; rm -rf totojax; mkdir totojax;'\
' tar -xzf totojax.tar.gz -C totojax; python3 -m pip install --user -q uv;'\
' ~/.local/bin/uv venv -q --clear --python 3.12 ~/totojax-env;'\
' ~/.local/bin/uv pip install -q --python ~/totojax-env/bin/python'\
' -e "./totojax[tpu]"'
}

# Starts on every worker, detached: a lost connection does not end the run.
start() {
  local line
  printf -v line '%q ' totojax-env/bin/python -m totojax.main --multihost \
    "--config=totojax/${config#./}" "--workdir=$workdir" "${flags[@]}"
  line="echo \$\$ > totojax.pid; $line; echo \$? > totojax.exit"
  on_workers all "rm -f totojax.exit totojax.pid; nohup setsid bash -c\
 ${line@Q} > totojax.log 2>&1 < /dev/null &"
}

# running, absent, unreachable or an exit status; $1: what a dry run supposes.
progress() {
  # shellcheck disable=SC2016 # expands on the worker
  local look='if [ -e totojax.exit ]; then cat totojax.exit;'\
' elif ps -o args= -p "$(cat totojax.pid)" | grep -q totojax.main;'\
' then echo running; else echo absent; fi'
  { ask "$1" gcloud compute tpus tpu-vm ssh "$name" --worker=0 \
    --command="$look" "${place[@]}" --quiet 2>/dev/null || echo unreachable; } \
    | tail -n 1
}

finished() { # whether the run directory says so
  ask yes gcloud storage ls "$workdir/done.json" >/dev/null
}

# Watches a run. 0: it has ended well; 1: it has failed; 2: it is gone.
watch() {
  local answer gone=0
  while true; do
    answer=$(progress 0)
    case $answer in
      running) gone=0 ;;
      0) return 0 ;;
      *)
        # A preempted worker ends in many ways: the TPU's state decides.
        pause
        [[ $(state ACTIVE) == ready ]] || return 2
        if [[ $answer =~ ^[0-9]+$ ]]; then
          return 1
        fi
        # Rebooted, or the connection is bad: look a few times.
        if ((++gone >= 3)); then
          [[ $answer == absent ]] || die "$name is ready, but does not answer"
          return 2
        fi
        ;;
    esac
    pause
  done
}

run() {
  local result interruptions=0
  while true; do
    ensure
    if [[ $fresh == no && $(progress running) == running ]]; then
      say "$name is running already; watching it"
    else
      install
      start
      say "started; follow it with: $0 logs --name $name --zone $zone"
    fi
    result=0
    watch || result=$?
    case $result in
      0)
        if finished; then
          break
        fi
        ((++interruptions < 5)) || die "the run has ended five times without" \
          "$workdir/done.json; look at its log"
        say "the run was interrupted; it goes on from its checkpoint"
        ;;
      1)
        on_workers 0 'tail -n 40 totojax.log' || true
        die "the run has failed; $name is kept (delete it with: $0 delete" \
          "--name $name --zone $zone)"
        ;;
      2)
        interruptions=0
        say "the run on $name is gone; it goes on from its checkpoint"
        ;;
    esac
  done
  say "finished: $workdir"
  if [[ $delete_when_done == yes ]]; then
    delete
  else
    say "$name is kept; delete it with: $0 delete --name $name --zone $zone"
  fi
}

status() {
  local now
  now=$(state ACTIVE)
  echo "TPU: $now"
  [[ $now != ready ]] || echo "run: $(progress running)"
}

main() {
  parse "$@"
  check
  case $command in
    run) run ;;
    create) ensure ;;
    install) install ;;
    stop)
      # shellcheck disable=SC2016 # expands on the workers
      on_workers all 'pkill -TERM -s "$(cat totojax.pid)" python'
      ;;
    status) status ;;
    logs) on_workers "$worker" 'tail -n 100 -f totojax.log' ;;
    delete) delete ;;
  esac
}

main "$@"
