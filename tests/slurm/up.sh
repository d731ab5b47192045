#!/usr/bin/env bash
# Start a real Slurm cluster for tests: munged, MariaDB, slurmdbd, slurmctld and
# slurmd, from Debian's packages, as root, without systemd. It has one node, which
# is this machine, or several, each in namespaces of its own (nodes/node_up.sh).
#
#   up.sh DIR          needs a new or empty folder
#   . DIR/env.sh       points sbatch, srun, squeue, sacct, submitit at it
#   down.sh DIR        stops it
#
# Everything lives under DIR; nothing under /etc is written. Packages that are
# missing are installed; where that fails, or where the kernel cannot keep nodes
# apart, the exit status is 3. Slurm's daemons listen on every interface and take
# only messages signed with this cluster's own munge key; MariaDB listens on
# 127.0.0.1 only.
#
# Settings (environment):
#   SLURM_TEST_NODES      nodes n1, n2, ... in namespaces (0: this machine alone)
#   SLURM_TEST_DBD        0: no accounting, and so no database (1)
#   SLURM_TEST_CPUS       CPUs a node claims (8; may exceed the real number)
#   SLURM_TEST_GPUS       stand-in GPUs that a node claims (2)
#   SLURM_TEST_MEM_MB     memory a node claims (80 % of the machine's, among all)
#   SLURM_TEST_PORT       first of the 4 TCP ports used by one node (16817)
#   SLURM_TEST_KILLWAIT   seconds from SIGTERM to SIGKILL of a job (3)
#   SLURM_TEST_REQUEUE_S  seconds before a requeued job may start again (10);
#                         must exceed KILLWAIT + 5, else the second copy finds
#                         the first still there and Slurm drains the node
#   SLURM_TEST_TIMEOUT_S  seconds after which a silent node is DOWN (60)
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # where Debian puts the daemons

DIR=$(realpath -m "$1")
NODES=${SLURM_TEST_NODES:-0}
DBD=${SLURM_TEST_DBD:-1}
CPUS=${SLURM_TEST_CPUS:-8}
GPUS=${SLURM_TEST_GPUS:-2}
MEM_MB=${SLURM_TEST_MEM_MB:-$(awk '/^MemTotal/ {print int($2 / 1024 * 0.8)}' /proc/meminfo)}
((NODES == 0)) || [[ -n ${SLURM_TEST_MEM_MB:-} ]] || MEM_MB=$((MEM_MB / NODES))
PORT=${SLURM_TEST_PORT:-16817} # that of several nodes is chosen with their network
KILLWAIT=${SLURM_TEST_KILLWAIT:-3}
REQUEUE_S=${SLURM_TEST_REQUEUE_S:-10}
TIMEOUT_S=${SLURM_TEST_TIMEOUT_S:-60}
HOST=$(hostname -s)
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MUNGE_SOCKET=$DIR/run/munge.socket

say() { echo "slurm/up: $*"; }
die() { echo "slurm/up: $*" >&2; exit 1; }

die_with_logs() {
  tail -n 15 "$DIR"/log/*.log >&2 || true
  die "$1 did not come up; the ends of the logs are above"
}

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds, or die with the logs.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || die_with_logs "$what"
    sleep 0.1
  done
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

idle() { [[ $(timeout 5 sinfo -h -o %T | sort -u) == idle ]]; }

# cannot WHY: what no setting changes on this machine.
cannot() { echo "slurm/up: $*" >&2; exit 3; }

[[ $(id -u) == 0 ]] || die "must run as root"
((${#MUNGE_SOCKET} < 100)) || die "$DIR is too long a path for a unix socket"
((REQUEUE_S > KILLWAIT + 5)) || die "SLURM_TEST_REQUEUE_S must exceed SLURM_TEST_KILLWAIT + 5"

[[ ! -e $DIR || (-d $DIR && -z $(ls -A "$DIR")) ]] || die "$DIR is not empty; choose another"

# --- packages -----------------------------------------------------------------
# (the -core packages of MariaDB leave out its services and its perl scripts)
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need munged munge
need slurmctld slurmctld
need slurmd slurmd
need sbatch slurm-client
if ((DBD)); then
  need slurmdbd slurmdbd
  need mariadbd mariadb-server-core
  need mariadb mariadb-client-core
fi
if ((NODES)); then
  need ip iproute2
  need pgrep procps
fi
mkdir -p "$DIR"
: >"$DIR/.slurm-test"
if ((${#missing[@]})); then
  say "installing ${missing[*]} (log: $DIR/apt.log)"
  {
    apt-get -o DPkg::Lock::Timeout=120 update &&
      DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 \
        install -y --no-install-recommends "${missing[@]}"
  } </dev/null >"$DIR/apt.log" 2>&1 || { tail -n 20 "$DIR/apt.log" >&2; exit 3; }
fi

export SLURM_CONF=$DIR/slurm.conf
# a caller inside another Slurm job must not lend its job to this cluster
while read -r name; do unset "$name"; done < <(compgen -e | grep -E '^(SLURM_(JOB|STEP|ARRAY|NODE|TASK|PROC|LOCAL|NTASKS|CLUSTER|WORKING)|SLURMD_)' || true)

# free PORT: nobody listens on it or on the three after it.
free() {
  local port
  for port in "$1" $(($1 + 1)) $(($1 + 2)) $(($1 + 3)); do
    ! listening "$port" || return 1
  done
}

# --- the network: of several nodes a bridge, to which node_up.sh links them -----
ADDRESS=127.0.0.1
if ((NODES)); then
  unshare --time --monotonic 1000 --net --uts --pid --mount --ipc --fork true 2>"$DIR/network.log" ||
    cannot "this kernel keeps no nodes apart: $(cat "$DIR/network.log")"
  # Of clusters that start at the same time one alone gets the bridge of a name, and what goes with it.
  for ((third = 1; third < 255; third++)); do
    PORT=$((30000 + 4 * third))
    { ! ip -4 route show | grep -qF "10.77.$third." && free $PORT; } || continue
    ip link add "kd$third" type bridge 2>"$DIR/network.log" && break
    grep -qF "File exists" "$DIR/network.log" || cannot "no bridge: $(cat "$DIR/network.log")"
  done
  ((third < 255)) || die "all networks of 10.77 are taken"
  mkdir -p "$DIR/run"
  echo "kd$third" >"$DIR/run/bridge"
  ADDRESS=10.77.$third.254
  ip addr add "$ADDRESS/24" dev "kd$third"
  ip link set "kd$third" up
fi
free "$PORT" || die "ports $PORT to $((PORT + 3)) are not free; set SLURM_TEST_PORT"
CTLD_PORT=$PORT SLURMD_PORT=$((PORT + 1)) DBD_PORT=$((PORT + 2)) DB_PORT=$((PORT + 3))

# --- configuration ------------------------------------------------------------
cd "$DIR"
mkdir -p run state spool log munge dev
chmod 700 munge
(umask 077 && head -c 1024 /dev/urandom >munge/munge.key)

# Slurm sets CUDA_VISIBLE_DEVICES only for gres with device files, and takes
# only character or block devices; their number is the last one in their name.
for ((i = 0; i < GPUS; i++)); do mknod -m 666 "dev/gpu$i" c 1 3; done # as /dev/null
NAMES=$HOST NODE_LINES="NodeName=$HOST NodeAddr=127.0.0.1" SPOOL=$DIR/spool
if ((NODES)); then
  NAMES="n[1-$NODES]" NODE_LINES= SPOOL=$DIR/spool/%n
  echo "127.0.0.1 localhost"$'\n'"$ADDRESS $HOST" >hosts
  for ((i = 1; i <= NODES; i++)); do
    echo "${ADDRESS%.*}.$i n$i" >>hosts
    NODE_LINES+="NodeName=n$i NodeHostname=n$i NodeAddr=${ADDRESS%.*}.$i"$'\n'
  done
fi
NODE_LINES=$(sed "s/..*/& CPUs=$CPUS RealMemory=$MEM_MB Gres=gpu:$GPUS State=UNKNOWN/" <<<"$NODE_LINES")
echo "NodeName=$NAMES Name=gpu File=$DIR/dev/gpu[0-$((GPUS - 1))]" >gres.conf
# nothing below uses cgroups, but slurmd loads a plugin for them all the same: the one
# for v1 asks for nothing at start, so this works with cgroup v1, v2, a mix, or none
echo "CgroupPlugin=cgroup/v1" >cgroup.conf

cat >slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$HOST($ADDRESS)
SlurmctldPort=$CTLD_PORT
SlurmdPort=$SLURMD_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire is also how long a requeued job waits (default 120 s)
AuthInfo=socket=$MUNGE_SOCKET,cred_expire=$REQUEUE_S
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$SPOOL
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd$( ((NODES == 0)) || echo "-%n").pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd$( ((NODES == 0)) || echo "-%n").log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true
MpiDefault=none
# nothing that needs cgroups: memory and devices are counted, not enforced
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# without a default a job that names no memory takes the node's whole memory
DefMemPerCPU=256
GresTypes=gpu
# schedule at once rather than every few seconds
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=2
# partition "low" gives way to "main": its jobs get submitit's signal, then requeue
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=$KILLWAIT
SlurmdTimeout=$TIMEOUT_S
ReturnToService=2
MinJobAge=3600
# let a node claim more CPUs than it has
SlurmdParameters=config_overrides
$NODE_LINES
PartitionName=main Nodes=$NAMES Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=$NAMES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=10
CONF
((DBD == 0)) || cat >>slurm.conf <<CONF
# submitit learns of jobs that died from sacct only
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$DBD_PORT
# for slurmdbd this is the munge socket, not a password
AccountingStoragePass=$MUNGE_SOCKET
# record GPUs too (sacct -o AllocTRES)
AccountingStorageTRES=gres/gpu
CONF

# --- daemons, each after what it depends on ------------------------------------
# No daemon may keep the caller's output open: a caller that reads this script
# through a pipe would wait for ever.
start() { "$@" </dev/null >>"$DIR/log/start.log" 2>&1 || die_with_logs "$1"; }

start munged --force --key-file="$DIR/munge/munge.key" --seed-file="$DIR/munge/munged.seed" \
  --socket="$MUNGE_SOCKET" --pid-file="$DIR/run/munged.pid" --log-file="$DIR/log/munged.log"
wait_for 10 munged bash -c "munge -n -S '$MUNGE_SOCKET' | unmunge -S '$MUNGE_SOCKET'"

if ((DBD)); then
  db_pass=$(head -c 18 /dev/urandom | od -An -tx1 | tr -d ' \n')
  (umask 077 && cat >slurmdbd.conf) <<CONF
AuthType=auth/munge
AuthInfo=socket=$MUNGE_SOCKET
DbdHost=$HOST
DbdAddr=127.0.0.1
DbdPort=$DBD_PORT
SlurmUser=root
PidFile=$DIR/run/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
DebugLevel=verbose
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DB_PORT
StorageUser=slurm
StoragePass=$db_pass
StorageLoc=slurm_acct_db
CONF
  # (a throw-away database: it need not wait for the disk)
  db_options=(--no-defaults --datadir="$DIR/mysql" --user=root --innodb-log-file-size=8M
    --innodb-flush-method=nosync --innodb-flush-log-at-trx-commit=0)
  start mariadb-install-db "${db_options[@]}" --auth-root-authentication-method=socket --skip-test-db
  start setsid --fork mariadbd "${db_options[@]}" --socket="$DIR/run/mysql.sock" \
    --pid-file="$DIR/run/mariadbd.pid" --bind-address=127.0.0.1 --port=$DB_PORT \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 --log-error="$DIR/log/mariadbd.log"
  sql() { mariadb --no-defaults -S "$DIR/run/mysql.sock" "$@"; }
  wait_for 30 mariadbd sql -e 'select 1'
  sql <<SQL
create database slurm_acct_db;
create user slurm@'127.0.0.1' identified by '$db_pass', slurm@localhost identified by '$db_pass';
grant all on slurm_acct_db.* to slurm@'127.0.0.1', slurm@localhost;
SQL

  start slurmdbd
  wait_for 30 slurmdbd listening "$DBD_PORT"
fi
start slurmctld
wait_for 30 slurmctld timeout 5 scontrol ping
if ((NODES == 0)); then start slurmd; fi
for ((i = 1; i <= NODES; i++)); do
  bash "$HERE/nodes/node_up.sh" "$DIR" "$i" || die_with_logs "node n$i"
done
wait_for 40 slurmd idle

cat >env.sh <<ENV
# the test cluster in $DIR: source this
export SLURM_CONF=$DIR/slurm.conf
ENV
say "up in $DIR after $SECONDS s ($(slurmctld -V), $NAMES, each $CPUS CPUs, $MEM_MB MB, $GPUS GPUs); source $DIR/env.sh"
