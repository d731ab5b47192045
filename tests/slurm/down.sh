#!/usr/bin/env bash
# Stop the test cluster of one node or several that up.sh started in DIR, and the jobs still in it.
#
#   down.sh DIR
#
# Ends processes by their own ids, and only those started for this DIR (their
# environment says so). Leaves DIR and its logs; safe to run twice or on nothing.
set -euo pipefail

DIR=$(realpath -m "$1")
[[ -e $DIR/.slurm-test ]] || { echo "slurm/down: nothing in $DIR"; exit 0; }
export SLURM_CONF=$DIR/slurm.conf

# belongs PID [VARIABLE]: the process was started for this DIR (with VARIABLE set).
belongs() {
  local env
  env=$(tr '\0' '\n' 2>/dev/null <"/proc/$1/environ") || return 1
  grep -qxF "SLURM_CONF=$DIR/slurm.conf" <<<"$env" &&
    { [[ $# == 1 ]] || grep -q "^$2=" <<<"$env"; }
}
# status PID KEY: one value of the process's /proc/PID/status, or nothing.
status() { awk -v key="$2:" '$1 == key {print $2}' "/proc/$1/status" 2>/dev/null || true; }
gone() { [[ $(status "$1" State) == "" || $(status "$1" State) == Z ]]; }

# stop_daemon NAME SECONDS: SIGTERM, and SIGKILL if it is still there after that.
stop_daemon() {
  local pid i
  pid=$(cat "$DIR/run/$1.pid" 2>/dev/null) || return 0
  if [[ $pid =~ ^[0-9]+$ ]] && belongs "$pid"; then
    kill "$pid" 2>/dev/null || true
    for ((i = 0; i < $2 * 10; i++)); do gone "$pid" && break; sleep 0.1; done
    gone "$pid" || kill -9 "$pid" 2>/dev/null || true
  fi
  rm -f "$DIR/run/$1.pid"
}

# slurmctld first, so that it requeues nothing when its node and jobs go away
stop_daemon slurmctld 10
stop_daemon slurmd 10
# With pid 1 of a node the kernel ends all that runs on it.
for node in "$DIR"/run/node-n*.pid; do
  [[ ! -e $node ]] || stop_daemon "$(basename "$node" .pid)" 3
done

# What is left of the jobs: processes of this cluster that are in a job, and
# their slurmstepds; never the caller, should it be one of them.
self=" "
for ((pid = $$; pid > 1; pid = $(status "$pid" PPid))); do self+="$pid "; done
for environ in /proc/[0-9]*/environ; do
  pid=${environ//[^0-9]/}
  [[ $self != *" $pid "* ]] || continue
  if belongs "$pid" SLURM_JOB_ID || { belongs "$pid" && [[ $(cat "/proc/$pid/comm") == slurmstepd ]]; }; then
    kill -9 "$pid" 2>/dev/null || true
  fi
done

stop_daemon slurmdbd 10
stop_daemon mariadbd 20
stop_daemon munged 5
if bridge=$(cat "$DIR/run/bridge" 2>/dev/null); then
  for link in $(ip -o link show master "$bridge" | sed -E 's/^[0-9]+: ([^@:]+).*/\1/') "$bridge"; do
    ip link del "$link" || true # A node's end of a pair takes the other end with it.
  done
  rm -f "$DIR/run/bridge"
fi
rm -f "$DIR/env.sh"
echo "slurm/down: stopped what ran in $DIR"
