#!/usr/bin/env bash
# equality.sh NAME FINBACK SOURCE [full]: training by real processes has the bits of one process told their sums, for a sample of the
# layouts or, with `full`, for all: every schedule × PP 1, 2, 4 × DP 1, 2, 4 × EP up to DP where the schedule exists, with MTP, in bf16 and
# fp8, ten steps each. Prints a line a layout.
set -uo pipefail
name=$1 finback=$2 source=$3 full=${4:-}
. "$(dirname "$0")/launcher.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
count=0

# As many micro-batches a rank as fill DualPipe's pipeline, of one short sequence each.
train() { # STEPS PP DP EP SCHEDULE PRECISION OUTPUT, then what starts it
  local steps=$1 pp=$2 dp=$3 ep=$4 schedule=$5 precision=$6 output=$folder/$7
  shift 7
  local storage=bf16
  [ "$precision" != fp8 ] || storage=paper
  rm -rf "$output"
  (cd "$source" && timeout -k 5 300 "$@" train configs/runs/tiny.toml --json \
    --set data.seq_len=32 --set train.micro_batch=1 --set train.global_batch=$((8 * dp)) --set train.steps="$steps" --set train.threads=1 \
    --set train.precision="$precision" --set train.activation_storage=$storage --set output.dir="$output" \
    --set parallel.pp="$pp" --set parallel.dp="$dp" --set parallel.ep="$ep" --set parallel.schedule="$schedule" \
    ${layout:+--as-layout "$layout"} 2>"$output.log" | grep -o '"loss_bits": "[0-9a-f]*"')
}

check() { # STEPS PP DP EP SCHEDULE PRECISION
  local one many
  one=$(layout="pp=$2,dp=$3,ep=$4" train "$@" one "$finback")
  many=$(layout="" train "$@" many "$launcher" -n $(($2 * $3)) "${options[@]}" "$finback")
  count=$((count + 1))
  if [ -n "$one" ] && [ "$one" = "$many" ]; then
    echo "pp $2 dp $3 ep $4 $5 $6: $one"
  else
    echo "error: pp $2 dp $3 ep $4 $5 $6: '$many' over processes, '$one' in one" >&2
    tail -n 3 "$folder/many.log" "$folder/one.log" >&2
    bad=1
  fi
}

if [ "$full" = full ]; then
  for schedule in 1f1b zb1p dualpipe dualpipev; do
    for pp in 1 2 4; do
      [ "$schedule" != dualpipe ] || [ $pp != 1 ] || continue # needs an even number
      for dp in 1 2 4; do
        for ep in 1 2 4; do
          [ $ep -le $dp ] || continue
          [ $((pp * dp)) -gt 1 ] || continue
          for precision in bf16 fp8; do check 10 $pp $dp $ep $schedule $precision; done
        done
      done
    done
  done
else
  check 2 1 2 2 1f1b bf16
  check 2 2 2 2 dualpipe fp8
fi
echo "$count layouts"
exit $bad
