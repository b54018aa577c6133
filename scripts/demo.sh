#!/usr/bin/env bash
# The main job on a real model: questions about a long text, full attention and sparse policies side by side.
# usage: scripts/demo.sh [options of `gsa ask`, for example --adapter FILE]   (without: the adapter that comes with gsa)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mapfile -t questions <demo/questions.txt
arguments=()
for question in "${questions[@]}"; do arguments+=(--question "$question"); done

cat <<'TEXT'
Three questions about a story of 7,000 words and marks (demo/README.md has the right answers), asked of a very small
model: SmolLM2 with 135M parameters. "full" reads every key; the others read a part of them.
TEXT
adapter=(--adapter smollm2-gsa)
if [[ " $* " == *" --adapter"* ]]; then adapter=(); fi
set -x
build/release/gsa ask --model smollm2 "${adapter[@]}" --doc demo/document.txt "${arguments[@]}" \
  --compare full,gsa,meanpool,streaming --max-tokens 48 "$@"
