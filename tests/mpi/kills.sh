#!/usr/bin/env bash
# kills.sh NAME FINBACK SOURCE [KILLS [SEED]]: training by real processes of which one is killed or stopped at a random moment, over and over, and
# resumed each time. Each job ends within its time, with one message that names a rank; every checkpoint left is whole; what comes out in
# the end has the bytes of a run that nothing happened to. 3 kills as a sample.
set -uo pipefail
name=$1 finback=$2 source=$3 kills=${4:-3} RANDOM=${5:-7}
. "$(dirname "$0")/launcher.sh"
folder=$(mktemp -d)
trap 'pkill -KILL -f "$folder" ; rm -rf "$folder"' EXIT
killed=0
steps=16 ranks=4

start() { # OUTPUT OPTIONS…
  local output=$1
  shift
  cd "$source" && exec "$launcher" -n $ranks "${options[@]}" "$finback" train configs/runs/tiny.toml "$@" \
    --set data.seq_len=16 --set train.micro_batch=1 --set train.global_batch=8 --set train.steps=$steps --set train.threads=1 \
    --set checkpoint.every=2 --set checkpoint.keep=3 --set eval.every=0 --set output.dir="$folder/$output" \
    --set parallel.pp=2 --set parallel.dp=2 --set parallel.ep=2 --set parallel.schedule=dualpipev --timeout 5
}
last() { printf '%s/%s/checkpoints/step-%08d/model.safetensors' "$folder" "$1" $steps; }

compare() { # … and start over
  cmp "$(last sound)" "$(last hit)" || wrong "other weights than those of a run that was left alone"
  rm -rf "$folder/hit"
}

begin=$(date +%s%N)
(start sound) >"$folder/sound.log" 2>&1 || { tail -n 5 "$folder/sound.log" >&2; exit 1; }
whole_ms=$((($(date +%s%N) - begin) / 1000000))

while [ $killed -lt "$kills" ]; do
  (start hit --resume) >"$folder/hit.log" 2>&1 &
  job=$!
  sleep "$(printf '%d.%03d' $((RANDOM % whole_ms / 1000)) $((RANDOM % 1000)))"
  mapfile -t processes < <(pgrep -f "^$finback train .*$folder/hit")
  if [ ${#processes[@]} -gt 0 ]; then
    signal=KILL
    # Not while MPI itself starts: a rank that stands still there holds up all others within its library.
    [ $((RANDOM % 4)) != 0 ] || ! grep -q '^memory by kind' "$folder/hit.log" || signal=STOP
    victim=${processes[RANDOM % ${#processes[@]}]}
    kill -$signal "$victim" && killed=$((killed + 1))
    for ((i = 0; i < 600; i++)); do kill -0 $job 2>/dev/null || break; sleep 0.1; done
    kill -0 $job 2>/dev/null && { wrong "the job did not end a minute after SIG$signal"; pkill -KILL -f "$folder/hit"; }
    pkill -KILL -f "^$finback train .*$folder/hit" # the stopped one, where its launcher left it
    wait $job
    code=$?
    case $code in
      0 | 6 | 137) ;;
      *) wrong "exit code $code after SIG$signal"; tail -n 5 "$folder/hit.log" >&2 ;;
    esac
    echo "SIG$signal, exit code $code: $(grep -m 1 '^error: ' "$folder/hit.log")"
    # MPICH's launcher may end all before one of them can speak; a rank that has not joined yet has no number.
    [ $code != 6 ] || [ "$(grep -c '^error: ' "$folder/hit.log")" = 1 ] || { wrong "not one message after SIG$signal"; grep '^error' "$folder/hit.log" >&2; }
  fi
  wait $job
  for checkpoint in "$folder"/hit/checkpoints/step-????????; do
    [ ! -d "$checkpoint" ] || "$finback" verify "$checkpoint" >/dev/null || wrong "$checkpoint is not whole"
  done
  [ $bad = 0 ] || break
  [ ! -e "$(last hit)" ] || compare
done
[ ! -d "$folder/hit" ] || { (start hit --resume) >"$folder/hit.log" 2>&1 && compare; } || { wrong "the last resume failed"; tail -n 5 "$folder/hit.log" >&2; }
echo "$killed times a rank was killed or stopped"
exit $bad
