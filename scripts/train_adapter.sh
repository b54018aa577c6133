#!/usr/bin/env bash
# Trains the adapter that comes with gsa, from the sources to the file: 17 minutes of one H100. Stopped, it goes on where
# it was when it is called again.
# usage: scripts/train_adapter.sh DATA OUT TOKENIZER [options of both stages of `gsa train`, for example --rows 4]
#   DATA       the sources that docs/training.md lists, as scripts/training_data.py reads them
#   OUT        folder for everything that is made; the adapter is OUT/smollm2-gsa.safetensors
#   TOKENIZER  tokenizer.json of SmolLM2, which evaluation sets are sized with
# In the environment: DEVICE (cuda); CPT_STEPS and FT_STEPS, steps of the stages (3000, 1200); GSA, the program
# (build/release/gsa)
set -euo pipefail
if (($# < 3)); then
  sed -n '4,9s/^# //p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
data=$1 out=$2 tokenizer=$3
shift 3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
gsa=${GSA:-$root/build/release/gsa}
python=$root/.venv/bin/python
sets=$out/sets
mkdir -p "$sets"

if [[ ! -e $sets/done ]]; then
  "$python" "$root/scripts/training_data.py" "$data" "$sets" --tokenizer "$tokenizer"
  touch "$sets/done"
fi

held_out=()
for name in val_books squad_long squad_8k hotpotqa 2wiki; do held_out+=(--exclude "$sets/$name.jsonl"); done
text=$data/text
[[ -e $out/text.gsa ]] || "$gsa" train prepare cpt --model smollm2 --row-len 4608 "${held_out[@]}" \
  --data "$text/postgresql_15_docs.jsonl.xz:0.81M" --data "$text/python_3.11_docs.jsonl.xz:1.35M" \
  --data "$text/perl_5.36_pod.jsonl.xz:0.81M" --data "$text/linux_6.1_documentation.jsonl.xz:2.16M" \
  --data "$text/stacks_tex.jsonl.xz:2M" --data "$text/english_novels.jsonl.xz:14M" \
  --data "$text/classic_books.jsonl.xz:40M" --out "$out/text.gsa"
[[ -e $out/qa.gsa ]] || "$gsa" train prepare ft --model smollm2 "${held_out[@]}" --data "$sets/qa_train.jsonl" --out "$out/qa.gsa"

device=${DEVICE:-cuda}

# A stage of training, from its last checkpoint if there is one.
train() {
  local stage=$1 resume=()
  shift
  if [[ -e $out/$stage/checkpoints ]]; then resume=(--resume); fi
  "$gsa" train "$stage" --model smollm2 --device "$device" "${resume[@]}" --out "$out/$stage" "$@"
}

train cpt --data "$out/text.gsa" --steps "${CPT_STEPS:-3000}" "$@"
train ft --data "$out/qa.gsa" --text "$out/text.gsa" --init "$out/cpt/adapter.safetensors" --steps "${FT_STEPS:-1200}" \
  --policy-keys route=both --routing 0.1 --made-tasks all --text-rows 0.4 "$@"
# Layers that retrieve get more of the budget; found on training questions.
"$gsa" train layers --model smollm2 --device "$device" --adapter "$out/ft/adapter.safetensors" --data "$out/qa.gsa" \
  --out "$out/smollm2-gsa.safetensors"
