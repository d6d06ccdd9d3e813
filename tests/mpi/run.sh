#!/usr/bin/env bash
# run.sh NAME RANKS_PROGRAM FINBACK: real processes under one MPI's launcher. Few ranks, short; every launch is bounded by a timeout.
set -uo pipefail
name=$1 ranks=$2 finback=$3
. "$(dirname "$0")/launcher.sh"
launch() { timeout -k 5 40 "$launcher" -n "${1}" "${options[@]}" "${@:2}" 2>&1; }

# The bits of all sums are those of threads: through shared memory, through MPI alone, and with checksums.
sums=$("$ranks" threads 3)
[ "$(launch 3 "$ranks" collectives)" = "$sums" ] || wrong "shared memory: other results than threads' '$sums'"
[ "$(NO_SHARED_MEMORY=1 CHECKSUMS=1 launch 3 "$ranks" collectives)" = "$sums" ] || wrong "MPI alone: other results than threads' '$sums'"

# A rank that goes wrong ends all within seconds: one message of ours with rank, phase and remedy, and a code.
goes_wrong() { # SCENARIO CODES EXPECTED-IN-MESSAGE…
  local scenario=$1 codes=$2 begin=$SECONDS output code part
  [ "$name" != mpich ] || codes+=" 9" # its launcher kills the others as soon as one has ended, and may tell of that alone
  shift 2
  output=$(launch 3 "$ranks" "$scenario" 1)
  code=$?
  [[ " $codes " == *" $code "* ]] || wrong "$scenario: exit code $code, not one of $codes"
  [ "$(grep -c '^error: ' <<<"$output")" = 1 ] || wrong "$scenario: not one message"
  for part; do grep '^error: ' <<<"$output" | grep -qF -- "$part" || wrong "$scenario: '$part' is not said"; done
  [ $((SECONDS - begin)) -le 30 ] || wrong "$scenario: took $((SECONDS - begin)) s"
  [ $bad = 0 ] || echo "$output"
}
goes_wrong disagrees 6 "rank 2 on " "differs in 'tokenizer'" "start all ranks"
goes_wrong throws "4" "rank 2 on " "in phase 'backward'" "the disk is full" "free some space"
goes_wrong stops "6 137" "rank 2 on " "in phase 'backward'" "--resume"
# MPICH's launcher kills the others at once when one is lost, before they can say a word.
[ "$name" = mpich ] || goes_wrong dies "6 137" "rank 2 on " "has died" "in phase 'backward'" "--resume"


exchange=$(launch 2 "$finback" bench exchange --bytes 4096 --seconds 0.05 --json)
grep -q '"peer_gb_per_s"' <<<"$exchange" && grep -q '"ranks": *2' <<<"$exchange" || wrong "bench exchange: $exchange"
exit $bad
