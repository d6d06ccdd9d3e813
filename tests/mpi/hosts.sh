#!/usr/bin/env bash
# hosts.sh FINBACK SOURCE: training over three hosts: network namespaces with names, addresses and process numbers of their own, which share no memory,
# under Open MPI over TCP. It has the bits of one process told its sums; when a host's cable is pulled, the job ends within its time and names
# who was lost; plugged in again, it resumes to the bytes of a run left alone. Packet loss and delay are not tried: that takes netem.
set -uo pipefail
finback=$1 source=$2
launcher=$(command -v mpirun.openmpi) || { echo "skipped: no Open MPI"; exit 77; }
[ "$(id -u)" = 0 ] && ip netns add finback-try 2>/dev/null && ip netns del finback-try || { echo "skipped: no network namespaces here (they want root)"; exit 77; }
folder=$(mktemp -d)
bridge=fbbr$$
bad=0
hosts=(fb$$a fb$$b fb$$c)
wrong() { echo "error: $*" >&2; bad=1; }
pull_down() {
  for host in "${hosts[@]}"; do
    # shellcheck disable=SC2046 # process numbers
    kill -KILL $(ip netns pids "$host" 2>/dev/null) 2>/dev/null
    ip netns del "$host" 2>/dev/null
  done
  ip link del $bridge 2>/dev/null
  rm -rf "$folder"
}
trap pull_down EXIT

ip link add $bridge type bridge && ip link set $bridge up || { echo "skipped: no bridge or veth in this kernel"; exit 77; }
for i in 0 1 2; do
  host=${hosts[i]} cable=fbv$$$i
  ip netns add "$host"
  ip link add "$cable" type veth peer name eth0 netns "$host"
  ip link set "$cable" master $bridge up
  ip -n "$host" addr add 10.203.71.$((i + 1))/24 dev eth0
  ip -n "$host" link set eth0 up
  ip -n "$host" link set lo up
  echo "10.203.71.$((i + 1)) $host" >>"$folder/names"
  echo "$host slots=1" >>"$folder/hostfile"
done

# Until the last host refuses what nobody listens for.
reachable() {
  for ((i = 0; i < 100; i++)); do
    [[ $(timeout 1 ip netns exec "${hosts[0]}" bash -c 'exec 3<>/dev/tcp/10.203.71.3/9' 2>&1) != *refused* ]] || return
    sleep 0.1
  done
  wrong "the hosts do not reach each other"
}
reachable

# What mpirun runs in place of ssh: HOST COMMAND….
cat >"$folder/enter" <<EOF
#!/usr/bin/env bash
host=\$1
shift
exec ip netns exec "\$host" unshare --uts --ipc --pid --fork --mount-proc bash -c "hostname \$host; mount --bind $folder/hosts /etc/hosts; \$*"
EOF
chmod +x "$folder/enter"
cat /etc/hosts "$folder/names" >"$folder/hosts"

run=(configs/runs/tiny.toml --set data.seq_len=16 --set train.micro_batch=1 --set train.global_batch=6 --set train.steps=16 --set train.threads=1
  --set checkpoint.every=2 --set checkpoint.keep=3 --set eval.every=0 --set parallel.dp=3)
last() { echo "$folder/$1/checkpoints/step-00000016/model.safetensors"; }
over_hosts() { # OUTPUT OPTIONS…
  "$folder/enter" "${hosts[0]}" "cd $source && exec $launcher --allow-run-as-root --leave-session-attached --hostfile $folder/hostfile -n 3 --mca plm_rsh_agent $folder/enter \
    --mca btl tcp,self --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 --mca plm_rsh_no_tree_spawn 1 \
    $finback train ${run[*]} ${*:2} --set output.dir=$folder/$1 --timeout 5"
}

(cd "$source" && "$finback" train "${run[@]}" --as-layout dp=3 --set output.dir="$folder/one") >"$folder/one.log" 2>&1 || { tail -n 5 "$folder/one.log" >&2; exit 1; }
over_hosts three >"$folder/three.log" 2>&1 || { wrong "training over hosts failed"; tail -n 8 "$folder/three.log" >&2; }
cmp "$(last one)" "$(last three)" || wrong "other weights over hosts than in one process"

over_hosts cut --set train.steps=100000 >"$folder/cut.log" 2>&1 &
job=$!
for ((i = 0; i < 600; i++)); do [ ! -d "$folder/cut/checkpoints/step-00000004" ] || break; sleep 0.1; done
ip link set "fbv$$2" down
ranks_left() { for host in "${hosts[@]:0:2}"; do ip netns pids "$host" | xargs -r ps -o args= -p | grep -c "^$finback"; done | awk '{ n += $1 } END { print n + 0 }'; }
for ((i = 0; i < 300; i++)); do [ "$(ranks_left)" != 0 ] || break; sleep 0.1; done
[ "$(ranks_left)" = 0 ] || wrong "ranks still stand there half a minute after the cable was pulled"
# Open MPI's launcher itself waits for its daemon on the lost host until TCP gives up.
for host in "${hosts[@]}"; do kill -KILL $(ip netns pids "$host") 2>/dev/null; done
wait $job
echo "cable pulled: $(grep -m 1 '^error: ' "$folder/cut.log")"
grep -q "^error: .*rank 2 on ${hosts[2]}" "$folder/cut.log" || { wrong "the lost rank is not named"; tail -n 8 "$folder/cut.log" >&2; }
ip link set "fbv$$2" up
reachable
newest=$(ls -d "$folder"/cut/checkpoints/step-???????? | tail -n 1)
"$finback" verify "$newest" >/dev/null || wrong "$newest is not whole"
[ $((10#${newest##*-})) -lt 16 ] || for later in "$folder"/cut/checkpoints/step-????????; do [ $((10#${later##*-})) -lt 16 ] || rm -rf "$later"; done
over_hosts cut --resume >"$folder/cut.log" 2>&1 || { wrong "the resume failed"; tail -n 8 "$folder/cut.log" >&2; }
cmp "$(last one)" "$(last cut)" || wrong "other weights after the resume"
exit $bad
