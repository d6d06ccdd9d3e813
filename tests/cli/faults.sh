#!/usr/bin/env bash
# faults.sh FINBACK: bad input to the built program ends with one line, "error: what, where, what to do", and its exit code; and
# what is no fault, such as a closed pipe or a path with spaces, is none. What each reader refuses in detail is tested beside it.
set -uo pipefail
finback=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/a b é" && cd "$folder/a b é" || exit 1
wrong=0 cases=0

complain() { echo "✗ $*"; wrong=$((wrong + 1)); }

# fault EXIT PART COMMAND…: the code, one error line on standard error, and PART in it.
fault() {
  local want=$1 part=$2 got=0
  shift 2
  cases=$((cases + 1))
  "$finback" "$@" >out 2>err || got=$?
  [ "$got" = "$want" ] || complain "exit $got instead of $want: $*: $(tail -n 1 err)"
  [ "$(grep -c '^error: ' err)" = 1 ] || complain "not one error line: $*: $(cat err)"
  grep '^error: ' err | grep -qF -- "$part" || complain "no '$part': $*: $(tail -n 1 err)"
}

# done_well COMMAND…: exit 0 and no error line.
done_well() {
  cases=$((cases + 1))
  "$finback" "$@" >out 2>err && ! grep -q '^error: ' err || complain "failed: $*: $(tail -n 1 err)"
}

# A model, a tokenizer and data, made by the program.
cat >m.json <<'J'
{"model_type": "deepseek_v3", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 16,
 "num_hidden_layers": 2, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
 "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4, "n_routed_experts": 4,
 "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "norm_topk_prob": true, "scoring_func": "sigmoid",
 "topk_method": "noaux_tc", "routed_scaling_factor": 2.5, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000,
 "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 1}
J
for i in $(seq 100); do echo "the cat sat on mat $i and then on another"; done >text.txt
done_well tokenizer train --in text.txt --vocab-size 300 --out tok
done_well init --config m.json --dtype fp32 --tokenizer tok --out good
done_well data pack --tokenizer tok --in text.txt --out data
cat >run.toml <<'T'
[model]
config = "m.json"
[data]
train = ["data.bin"]
valid = "data.bin"
tokenizer = "tok"
seq_len = 16
[train]
steps = 4
global_batch = 2
micro_batch = 2
threads = 1
[checkpoint]
every = 2
[eval]
tokens = 100
[output]
dir = "run"
T
anew() { rm -rf m && cp -r good m; }
edit() { LC_ALL=C sed -i "$@"; }
score=(score --model m --ids 1,2,3)

# safetensors
anew; done_well "${score[@]}"
: >m/model.safetensors; fault 3 "file too short for header" "${score[@]}"
head -c 7 good/model.safetensors >m/model.safetensors; fault 3 "file too short for header" "${score[@]}"
printf '\0\0\0\0\0\0\0\x80{}' >m/model.safetensors; fault 3 "header length" "${score[@]}"
printf '\x03\0\0\0\0\0\0\0 {}' >m/model.safetensors; fault 3 "byte 8" "${score[@]}"
anew; printf x >>m/model.safetensors; fault 3 "after the last tensor" "${score[@]}"
anew; truncate -s -4 m/model.safetensors; fault 3 "model.safetensors" "${score[@]}"
anew; edit 's/"F32"/"F77"/' m/model.safetensors; fault 3 "unknown dtype 'F77'" "${score[@]}"
anew; edit 's/"lm_head.weight"/"lm_tail.weight"/' m/model.safetensors; fault 3 "tensors missing (1): lm_head.weight" "${score[@]}"
anew; edit 's/"model.norm.weight"/"extra_norm_weight"/' m/model.safetensors; fault 3 "model.norm.weight" "${score[@]}"

# folders
fault 4 "nowhere" score --model nowhere --ids 1
anew; mv m/model.safetensors m/a.safetensors
for shard in gone.safetensors ../../etc/passwd /etc/passwd; do
  echo "{\"weight_map\": {\"a\": \"$shard\"}}" >m/model.safetensors.index.json; fault 3 "$shard" "${score[@]}"
done

# config.json
for change in 's/"num_attention_heads": 2/"num_attention_heads": 0/' 's/"num_hidden_layers": 2/"num_hidden_layers": 1000000000/' \
  's/"num_experts_per_tok": 2/"num_experts_per_tok": 5/' 's/"n_group": 2/"n_group": 3/' 's/"model_type": "deepseek_v3"/"model_type": "llama"/' \
  's/"vocab_size": 300/"vocab_size": 301/' 's/"kv_lora_rank": 8/"kv_lora_rank": 9/'; do
  anew; edit "$change" m/config.json; fault 2 "$(sed -E 's/.*\/"([a-z_]+)": .*/\1/' <<<"$change")" "${score[@]}"
done
sed 's/"hidden_size": 16/"hidden_size": 1000000/; s/"vocab_size": 300/"vocab_size": 4000000/' m.json >huge.json
fault 4 "GB are to be written" init --config huge.json --out huge
fault 2 "GiB of memory" train run.toml --set model.config=huge.json --check

# conversions
done_well convert --in good --out bf16 --dtype bf16
done_well convert --in bf16 --out fp8 --dtype fp8
done_well score --model fp8 --ids 1,2,3
done_well verify fp8 --check-tensors
done_well convert --in fp8 --out back --dtype bf16
fault 2 "there already" convert --in fp8 --out back --dtype bf16
fault 2 "is the input" convert --in fp8 --out fp8/. --dtype bf16
fault 4 "nowhere" convert --in nowhere --out x --dtype bf16
scale=model.layers.0.self_attn.o_proj.weight_scale
rm -rf m && cp -r fp8 m; edit "s/\"${scale}_inv\"/\"${scale}_irv\"/" m/model.safetensors
for command in "score --model m --ids 1" "convert --in m --out x --dtype bf16" "convert --in m --out x --dtype fp8" "verify m"; do
  read -ra words <<<"$command"
  fault 3 "$([ "${words[0]}" = verify ] && echo fault || echo "${scale}_inv")" "${words[@]}"
done
rm -rf m && cp -r fp8 m; edit 's/"quantization_config"/"quantisation_config"/' m/config.json; fault 3 "F8_E4M3" convert --in m --out x --dtype bf16
anew; edit 's/"float32"/"bfloat16"/' m/config.json; fault 3 "no weight holds it" convert --in m --out x --dtype fp8
[ ! -e x ] && [ ! -e x.tmp ] || complain "a refused conversion left a folder"

# tokenizers and texts
encode=(tokenizer encode --tokenizer m --in text.txt)
anew; edit 's/"merges"/"murges"/' m/tokenizer.json; fault 3 "merges" "${encode[@]}"
anew; truncate -s 1G m/tokenizer.json; fault 3 "larger than" "${encode[@]}"
anew; rm m/tokenizer.json; fault 3 "no tokenizer" "${encode[@]}"
printf 'caf\xc3\xa9 \xff\xed\xa0\xbd\0 <\xef\xbd\x9cend\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>' >odd.txt
done_well tokenizer encode --tokenizer tok --in odd.txt --json && mv out ids.json
! grep -qE '\[1,|, ?1,|, ?1\]' ids.json || complain "a special token from plain text: $(cat ids.json)"
done_well tokenizer decode --tokenizer tok --in ids.json && cmp -s out odd.txt || complain "bytes do not round-trip"
: >empty.txt; fault 3 "empty" data pack --tokenizer tok --in empty.txt --out e
fault 3 "zero byte" data pack --tokenizer tok --in odd.txt --out e
echo '{"text": 1}' >bad.jsonl; fault 3 "line 1" data pack --tokenizer tok --in bad.jsonl --out e

# ids and options
fault 2 "'300'" score --model good --ids 1,300
fault 2 "'-2'" score --model good --ids 1,-2
fault 2 "no tokens" score --model good --ids ''

# runs
cp data.bin short.bin && cp data.idx short.idx && truncate -s -2 short.bin
fault 3 "short" train run.toml --set data.train=short.bin
fault 2 "did you mean 'optimizer.lr'" train run.toml --set optimizer.lrr=1
fault 4 "/proc/run" train run.toml --set output.dir=/proc/run
done_well train run.toml
done_well train run.toml --set 'data.train=["synthetic"]' --set data.valid= --set data.tokenizer= --set output.dir=made
fault 2 "--resume" train run.toml
done_well verify run
done_well train run.toml --resume --set train.steps=6
edit 's/"step": 6/"step": 7/' run/checkpoints/step-00000006/train_state/manifest.json
fault 3 "step-00000006" score --model run/checkpoints/step-00000006 --ids 1,2
fault 3 "fault" verify run
ln -sfn step-99999999.tmp run/checkpoints/latest
done_well train run.toml --resume --set train.steps=8
grep -qF 'resuming from run/checkpoints/step-00000004' err || complain "the older checkpoint was not taken: $(cat err)"

# plans
done_well plan schedule --kind zb1p --ranks 4 --micro-batches 8 --out pictures
for name in schedule.svg schedule.txt trace.json; do [ -s pictures/$name ] || complain "no pictures/$name"; done
done_well plan schedule --out one.json --json && grep -q '"bubble": 6' out || complain "no bubble of 6: $(cat out)"
grep -q '^rank 0' out && complain "--json prints text too"
fault 2 "even number of ranks" plan schedule --kind dualpipe --ranks 3 --micro-batches 8
fault 2 "use 1f1b" plan schedule --kind gpipe
fault 2 "backward above 0" plan schedule --forward 0
done_well plan memory --model m.json --pp 2 --dp 4 --ep 2 --json && grep -q '"largest_bytes"' out || complain "no bytes: $(cat out)"
fault 2 "set parallel.ep to a divisor of parallel.dp" plan memory --model m.json --dp 2 --ep 4
fault 2 "divisor of n_routed_experts" plan memory --model m.json --dp 3 --ep 3
fault 4 "one.json" plan schedule --out one.json/x.svg

# closed streams: the run goes on, and what it would have said goes into no file
"$finback" train run.toml --set output.dir=quiet >&- 2>&- || complain "a run with closed streams failed"
! grep -rqF 'memory by kind' quiet || complain "what a run says went into one of its files"
{ "$finback" train run.toml --set output.dir=piped 2>&1 || echo "failed" >piped.failed; } | true
[ ! -e piped.failed ] && [ -e piped/summary.json ] || complain "a run whose pipe was closed failed"

# a product that cannot be written
full() {
  cases=$((cases + 1))
  local got=0
  "$finback" "$@" >/dev/full 2>err || got=$?
  [ $got = 4 ] && grep -q '^error: .*standard output' err || complain "exit $got with a full disk: $*: $(cat err)"
}
full generate --model good --prompt a --max-tokens 5
full tokenizer encode --tokenizer tok --in text.txt --json
full score --model good --ids 1,2,3
fault 4 "nowhere" init --config m.json --tokenizer nowhere --out half
[ ! -e half ] || complain "init left a folder without a tokenizer"

echo "$cases cases, $wrong wrong"
[ $wrong = 0 ] && [ $cases -gt 40 ]
