#!/usr/bin/env bash
# Start one node of the cluster in DIR: slurmd as pid 1 of namespaces of its own, with an
# interface on the cluster's bridge. up.sh calls it, and a test after it has killed a node.
#
#   node_up.sh DIR NUMBER
#
# The node has a host name (n1, n2, ...), an address, its own loopback and abstract sockets,
# process ids, boot id and monotonic clock: a rank of n2 sees no process of n1. Files are
# shared, as on a cluster, but those below DIR/local. The clock is NUMBER thousand seconds
# ahead, and goes back by 100 s whenever the node boots again: a program that mixes the clocks of
# nodes fails at once. Under /etc nothing is written: files there are covered inside the node
# alone. Of names it asks /etc/hosts alone: torch asks for those of all addresses, and a name
# server that no node reaches would keep each rank for 10 s.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
DIR=$(realpath "$1") number=$2 name=n$2
bridge=$(cat "$DIR/run/bridge")
address=$(awk -v name="$name" '$2 == name {print $1}' "$DIR/hosts")
export SLURM_CONF=$DIR/slurm.conf

node=$DIR/nodes/$name
mkdir -p "$DIR/spool/$name" "$node/local" "$DIR/local"
rm -f "$node/go" "$DIR/run/node-$name.pid"
echo "hosts: files" >"$DIR/nsswitch.conf"
cat /proc/sys/kernel/random/uuid >"$node/boot_id"
echo >>"$node/boots"
ahead_s=$((number * 1000 + 100 - 100 * $(wc -l <"$node/boots")))
echo "$ahead_s" >"$node/ahead_s"

# The name of the process outside is in no file of the node's own /proc: the shell below waits,
# and it is found as the child of `unshare`.
setsid unshare --time --monotonic "$ahead_s" --boottime "$ahead_s" --net --uts --pid --mount --ipc \
  --fork --kill-child --mount-proc bash -c "
    hostname $name
    mount --bind '$DIR/hosts' /etc/hosts
    mount --bind '$DIR/nsswitch.conf' /etc/nsswitch.conf
    mount --bind '$node/local' '$DIR/local'
    mount --bind '$node/boot_id' /proc/sys/kernel/random/boot_id
    ip link set lo up
    until [[ -e '$node/go' ]]; do sleep 0.05; done
    exec slurmd -D -N $name" </dev/null >>"$DIR/log/start.log" 2>&1 &
outside=$!
inner=
for ((try = 0; try < 200; try++)); do
  inner=$(pgrep -P "$outside" || true)
  [[ -z $inner ]] || break
  kill -0 "$outside" 2>/dev/null || break
  sleep 0.05
done
[[ -n $inner ]] || { echo "node_up: $name did not start; see $DIR/log/start.log" >&2; exit 1; }
echo "$inner" >"$DIR/run/node-$name.pid"

ip link del "$bridge-$number" 2>/dev/null || true
ip link add "$bridge-$number" type veth peer name eth0 netns "$inner"
ip link set "$bridge-$number" master "$bridge" up
nsenter -t "$inner" -n ip addr add "$address/24" dev eth0
nsenter -t "$inner" -n ip link set eth0 up
nsenter -t "$inner" -n ip route add default via "${address%.*}.254"
: >"$node/go"
