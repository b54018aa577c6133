#!/usr/bin/env bash
# The main job on a real model: questions about a long text, full attention and sparse policies side by side.
# usage: scripts/demo.sh [options of `gsa ask`, for example --adapter FILE]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mapfile -t questions <demo/questions.txt
arguments=()
for question in "${questions[@]}"; do arguments+=(--question "$question"); done

cat <<'TEXT'
Three questions about a story of 7,000 words and marks (demo/README.md has the right answers), asked of a very small
model: SmolLM2 with 135M parameters. "full" reads every key; the others read a part of them.
TEXT
if [[ " $* " != *" --adapter"* ]]; then
  echo 'No --adapter is given, so the gists of "gsa" are untrained: its answers are not what the method can do.'
fi
set -x
build/release/gsa ask --model smollm2 --doc demo/document.txt "${arguments[@]}" \
  --compare full,gsa,meanpool,streaming --max-tokens 48 "$@"
