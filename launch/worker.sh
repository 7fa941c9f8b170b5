#!/usr/bin/env bash
# On a worker: installs, starts, looks after and stops a run; called by ssh.
#
# Each call answers with one line, "totojax HOST WORD": without it, nobody has
# heard the worker.
#
#   install             what the archive in totojax.new holds becomes totojax/
#   start WORKDIR FLAG  starts the run, detached: a lost connection is no end
#   look [WORKDIR]      "running", "absent", "stopped", or the run's exit status;
#                       "busy with URL" where a run of another WORKDIR runs
#   stop                asks the run to save a checkpoint and to leave
#   end                 ends whatever is left of a run, at once
#
# What it keeps is in TOTOJAX_FOLDER (default: the home). TOTOJAX_EXTRAS are those
# that are installed; with TOTOJAX_PYTHON, a Python that has totojax, none are.
set -u
cd "${TOTOJAX_FOLDER:-$HOME}" || exit

say() { echo "totojax $(hostname) $*"; }

shows() { # Has the process of this number these words in its command line?
  ps -o args= -p "$1" | grep -q "$2"
}

live() { # Is the run there, and not another process that got its number?
  local main session
  main=$(cat totojax.pid 2>/dev/null) && shows "$main" totojax.main && return
  # It may be about to begin, or to leave its exit status.
  read -r session _ 2>/dev/null <totojax.session && [ ! -e totojax.exit ] \
    && shows "$session" "worker.sh session"
}

install() {
  if live; then # never over a run
    say running
    return
  fi
  end || return
  # The system's Python may be older than the project needs: uv brings its own.
  PATH=~/.local/bin:$PATH
  if {
    rm -rf totojax && mv totojax.new totojax \
      && { command -v uv || curl -LsSf https://astral.sh/uv/install.sh | sh; } \
      && uv venv -q --clear --python 3.12 totojax-env \
      && uv pip install -q --python totojax-env/bin/python -e "./totojax[${TOTOJAX_EXTRAS:-tpu,data}]"
  } >install.log 2>&1; then
    say installed
  else
    say "failed: $(tail -n 1 install.log)"
  fi
}

start() {
  if live; then
    say running
    return
  fi
  end || return
  rm -f totojax.exit totojax.pid totojax.stopped
  echo "$1" >totojax.workdir
  nohup setsid bash totojax/launch/worker.sh session "$@" >>totojax.log 2>&1 </dev/null &
  for _ in {1..50}; do
    [ -e totojax.pid ] && break
    sleep 0.1
  done
  if [ -e totojax.pid ]; then say started; else say "failed: nothing was started"; fi
}

session() { # The run, in a session of its own.
  local main keeper
  echo "$$ $(cat /proc/sys/kernel/random/boot_id)" >totojax.session
  trap : TERM # at a shutdown: this shell has to see how the run ends
  ulimit -n "$(ulimit -H -n)"
  workdir=$1
  shift
  echo "== $(date -u +%FT%TZ) $*"
  # From the clone's own folder: from the one that holds it, its name would
  # hide the package.
  (cd totojax && exec "${TOTOJAX_PYTHON:-../totojax-env/bin/python}" -m totojax.main "$@") &
  main=$!
  echo $main >totojax.part && mv totojax.part totojax.pid
  while sleep 600; do copy_log; done & # it may be lost without a warning
  keeper=$!
  while kill -0 $main 2>/dev/null; do wait $main; done # which a signal ends
  wait $main
  echo $? >totojax.part && mv totojax.part totojax.exit
  kill $keeper
  copy_log
}

copy_log() {
  if [[ $workdir != gs://* ]]; then # a folder that all hosts see
    mkdir -p "$workdir/launch" && tail -n 2000 totojax.log >"$workdir/launch/$(hostname).log.part" \
      && mv "$workdir/launch/$(hostname).log.part" "$workdir/launch/$(hostname).log"
    return
  fi
  tail -n 2000 totojax.log | gcloud storage cp -q - "$workdir/launch/$(hostname).log" >/dev/null 2>&1
}

look() {
  local workdir
  if live; then
    workdir=$(cat totojax.workdir 2>/dev/null)
    if [ "${1:-$workdir}" = "${workdir:-${1:-}}" ]; then say running; else say "busy with $workdir"; fi
  elif [ -e totojax.stopped ] && [ -e totojax.exit ]; then
    say stopped
  elif [ -e totojax.exit ]; then
    say "$(cat totojax.exit)"
  else
    say absent
  fi
}

stop() { # Its main process alone: what decodes for it must go on until then.
  live && touch totojax.stopped && kill -TERM "$(cat totojax.pid)"
  look
}

end() {
  local session boot lock=${TOTOJAX_TPU_LOCK:-/tmp/libtpu_lockfile}
  read -r session boot 2>/dev/null <totojax.session
  # After a reboot the number may be anybody's.
  if [ "${boot:-}" = "$(cat /proc/sys/kernel/random/boot_id)" ]; then
    pkill -KILL -s "$session"
    for _ in {1..100}; do
      pgrep -s "$session" >/dev/null || break
      sleep 0.2
    done
    if pgrep -s "$session" >/dev/null; then
      say "failed: the last run cannot be ended"
      return 1
    fi
  fi
  # Left behind by a killed process, it says that the TPU is in use.
  rm -f totojax.session "$lock" 2>/dev/null || sudo -n rm -f "$lock" || true
}

"$@" && if [ "$1" = end ]; then say ended; fi
