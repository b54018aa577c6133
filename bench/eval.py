#!/usr/bin/env python3
"""Times whole answers to an evaluation's items: gsa beside transformers with full attention, one after the other.

usage: bench/eval.py [--tasks FILE] [--items 100] [--policies full,gsa@16] [--threads 2] [--reps 1]

The peer generates from the same tokens with the same weights, greedily, an item at a time. Prints one table (Markdown).
Needs build/release/gsa and the Python packages of scripts/requirements-test.txt in .venv.

Without --tasks the items are 100 pass keys in 1300 tokens each, which need no data. On 100 questions of HotpotQA with
their own ten passages, of about as many tokens (DATA holds qa/hotpotqa_dev.jsonl.xz and the rest that
scripts/training_data.py lists; the tokenizer is the model's tokenizer.json):

    .venv/bin/python scripts/training_data.py DATA OUT --tokenizer tokenizer.json
    .venv/bin/python bench/eval.py --tasks OUT/hotpotqa.jsonl
"""

import argparse
import pathlib
import platform
import sys
import tempfile

from run import PEER, ROOT, bundled_model, run_json


def print_table(runs, peers):
    best = min(peers, key=lambda peer: peer["seconds_per_item"])
    print("| who | items | s per item | answer tokens | keys read | times transformers |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in peers + runs:
        who = row["policy"] if row in peers else f"gsa eval, {row['policy']}"
        seconds = row["seconds_per_item"]
        spread = f"{seconds:.3g} ({row['seconds_per_item_min']:.3g} to {row['seconds_per_item_max']:.3g})"
        print(
            f"| {who} | {row['items']} | {spread} | {row['answer_tokens']:.1f} | {100 * row['fraction_read']:.1f} % "
            f"| {best['seconds_per_item'] / seconds:.2f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gsa", type=pathlib.Path, default=ROOT / "build" / "release" / "gsa")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--tasks", help="as gsa eval takes them (default: pass keys in 1300 tokens)")
    parser.add_argument("--items", default="100")
    parser.add_argument("--policies", default="full")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--reps", default="1")
    parser.add_argument("--attention", default="sdpa,eager", help="of transformers; the faster one counts")
    args = parser.parse_args()
    model = args.model or bundled_model()
    shared = ["--model", model, "--threads", args.threads, "--reps", args.reps]
    tasks = ["--tasks", args.tasks] if args.tasks else []
    with tempfile.TemporaryDirectory() as folder:
        prompts = pathlib.Path(folder) / "prompts.jsonl"
        ours = run_json([args.gsa, "bench", "eval", *shared, *tasks, "--items", args.items, "--policies", args.policies,
                         "--prompts", prompts, "--json"])  # fmt: skip
        theirs = run_json([sys.executable, PEER, "generate", *shared, "--prompts", prompts, "--attention", args.attention])
    print(f"{model.name}, {args.threads} threads, {platform.processor() or platform.machine()}")
    print(f"gsa in {ours['dtype']}, transformers in {theirs['dtype']}\n")
    print_table(ours["results"], theirs["results"])


if __name__ == "__main__":
    main()
