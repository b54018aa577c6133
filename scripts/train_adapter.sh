#!/usr/bin/env bash
# Trains the adapter that comes with gsa, from the sources to the file: 42 minutes of one H100. Stopped, it goes on where
# it was when it is called again.
# usage: scripts/train_adapter.sh DATA OUT TOKENIZER [options of all stages of `gsa train`, for example --rows 4]
#   DATA       the sources that docs/training.md lists, as scripts/training_data.py reads them
#   OUT        folder for everything that is made; the adapter is OUT/smollm2-gsa.safetensors
#   TOKENIZER  tokenizer.json of SmolLM2, which evaluation sets are sized with
# In the environment: DEVICE (cuda); PERCENT, of the steps of all stages (100); GSA, the program (build/release/gsa)
set -euo pipefail
if (($# < 3)); then
  sed -n '4,8s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
data=$1 out=$2 tokenizer=$3
shift 3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
gsa=${GSA:-$root/build/release/gsa}
python=$root/.venv/bin/python
sets=$out/sets
mkdir -p "$sets"

if [[ ! -e $sets/done || ! -e $sets/passages.jsonl ]]; then
  "$python" "$root/scripts/training_data.py" "$data" "$sets" --tokenizer "$tokenizer"
  touch "$sets/done"
fi

held_out=()
for name in val_books squad_long squad_8k hotpotqa 2wiki; do held_out+=(--exclude "$sets/$name.jsonl"); done
text=$data/text
[[ -e $out/text.gsa ]] || "$gsa" train prepare cpt --model smollm2 --row-len 4608 "${held_out[@]}" \
  --data "$sets/passages.jsonl" \
  --data "$text/postgresql_15_docs.jsonl.xz:0.8M" --data "$text/python_3.11_docs.jsonl.xz:1M" \
  --data "$text/perl_5.36_pod.jsonl.xz:0.5M" --data "$text/linux_6.1_documentation.jsonl.xz:1M" \
  --data "$text/stacks_tex.jsonl.xz:0.7M" --data "$text/english_novels.jsonl.xz:3M" \
  --data "$text/classic_books.jsonl.xz:7M" --out "$out/text.gsa"
[[ -e $out/qa.gsa ]] || "$gsa" train prepare ft --model smollm2 "${held_out[@]}" --data "$sets/qa_train.jsonl" --out "$out/qa.gsa"

# train NAME STAGE STEPS OPTIONS...: a run of its own, from its last checkpoint if there is one; that of another
# recipe is refused.
train() {
  local name=$1 stage=$2 steps=$(($3 * ${PERCENT:-100} / 100)) resume=()
  shift 3
  if [[ -e $out/$name/checkpoints ]]; then resume=(--resume); fi
  "$gsa" train "$stage" --model smollm2 --device "${DEVICE:-cuda}" --steps $((steps > 0 ? steps : 1)) \
    "${resume[@]}" --out "$out/$name" "$@"
}

full=$out/full/adapter.safetensors
questions=(--data "$out/qa.gsa" --text "$out/text.gsa" --made-tasks all)
# The layers that retrieve (14, 17, 18, 20 and 23) get more of the budget.
gists=(--routing 0.1 --policy-keys 'route=both:layers=1/0.375*13/4/0.375*2/4*2/0.375/4/0.375*2/4/0.375*6')
taught=(--teacher "$full" --distill 0.5 --plain-distill 0.5)

# Answers under full attention first: all gists learn from this model.
train full ft 1400 "${questions[@]}" --chunks full --lr 0.002 --text-rows 0.25 --plain-text 0.5 --plain-distill 0 "$@"
# Gists on text, then on questions, under the gist mask.
train cpt cpt 800 --data "$out/text.gsa" --init "$full" --teacher "$full" --distill 1 --lr 0.002 \
  --chunks 8,16,32,4-4,full "$@"
train apart ft 2044 "${questions[@]}" --init "$out/cpt/adapter.safetensors" "${taught[@]}" "${gists[@]}" --lr 0.001 \
  --text-rows 0.4 --plain-text 0.5 --chunks 16,8,32,full,16,8,4-4,32 "$@"
# Gists on both at once, under both ways of reading.
train both ft 1628 "${questions[@]}" --init "$full" "${taught[@]}" "${gists[@]}" --lr 0.0015 --gist-lr 0.005 \
  --text-rows 0.5 --plain-text 0.6 --chunks 16,8,32,16:read=full,8,full,32,4-4,8:read=full "$@"
"$gsa" train average "$out/apart/adapter.safetensors" "$out/both/adapter.safetensors" --out "$out/smollm2-gsa.safetensors"
