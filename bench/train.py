#!/usr/bin/env python3
"""Times training steps of gsa and of PyTorch, one after the other on the same device, and prints one table (Markdown).

usage: bench/train.py [--device cuda] [--context 4096,32768] [--policies gsa@16,full] [--batch-tokens 32768] [--reps 5]

gsa trains LoRA and gists of SmolLM2-135M; the peer (bench/peers/flex_attention.py) a random model of the same shape, under the
gist mask by FlexAttention and under plain causal attention by scaled_dot_product_attention. Lengths are raw tokens per row.
"""

import argparse
import pathlib
import shlex
import sys

from run import ROOT, run_json

PEER = ROOT / "bench" / "peers" / "flex_attention.py"


def peer_of(row, peers):
    """The peer's row of the same length under the same kind of attention, if it could be timed."""
    kind = "sdpa" if row["policy"] == "full" else "flex"
    found = [peer for peer in peers if peer["context"] == row["context"] and peer["policy"].startswith(kind)]
    return found[0] if found and "error" not in found[0] else None


def ratio(row, peer, key):
    return f"{row[key] / peer[key]:.2f}" if peer and "error" not in row else "-"


def print_row(who, row, peer):
    cells = [row["context"], row["rows"], who]
    if "error" in row:
        cells += ["-", row["error"], "-", "-", "-", "-", "-"]
    else:
        spread = f"{row['ms_per_step']:.1f} ({row['ms_per_step_min']:.1f} to {row['ms_per_step_max']:.1f})"
        cells += [spread, f"{row['tokens_per_second']:,.0f}", f"{row['raw_tokens_per_second']:,.0f}"]
        cells += [f"{100 * row['share_of_peak']:.1f} %", f"{row['peak_memory_bytes'] / 2**30:.1f}"]
        cells += [ratio(row, peer, "raw_tokens_per_second"), ratio(row, peer, "peak_memory_bytes")]
    print("|", " | ".join(map(str, cells)), "|")


def print_table(runs, peers):
    titles = "context,rows,who,ms per step,tokens/s,raw tokens/s,of peak,GiB,speed (peer: 1),memory (peer: 1)".split(",")
    print("|", " | ".join(titles), "|")
    print("|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for context in dict.fromkeys(run["context"] for run in runs):
        for run in runs:
            if run["context"] == context:
                print_row(f"gsa, {run['policy']}", run, peer_of(run, peers))
        for peer in peers:
            if peer["context"] == context:
                print_row(f"PyTorch, {peer['policy']}", peer, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gsa", type=pathlib.Path, default=ROOT / "build" / "release" / "gsa")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--context", help="default: 4096,8192,16384,32768 on a GPU, 1024,2048 on a CPU")
    parser.add_argument("--policies", default="gsa@16,full")
    parser.add_argument("--batch-tokens", default="32768")
    parser.add_argument("--reps", default="5")
    parser.add_argument("--rank", default="32")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--peer", default="", help="more options of the peer, as one argument, such as its shape")
    args = parser.parse_args()
    context = args.context or ("1024,2048" if args.device == "cpu" else "4096,8192,16384,32768")
    shared = ["--context", context, "--batch-tokens", args.batch_tokens, "--reps", args.reps, "--rank", args.rank]
    shared += ["--device", args.device, "--threads", args.threads]
    if args.checkpoint_activations:
        shared.append("--checkpoint-activations")
    ours = run_json(
        [args.gsa, "bench", "train", "--model", args.model, "--policies", args.policies, "--dtype", "bf16", *shared, "--json"]
    )
    theirs = run_json([sys.executable, PEER, *shared, *shlex.split(args.peer)])
    print(f"`{shlex.join(['bench/train.py', *sys.argv[1:]])}`\n")
    peaks = [f"{run['peak_flops'] / 1e12:.3g}" for run in (ours, theirs)]
    print(f"{ours['device']}, {ours['dtype']}, TFLOP/s of products: gsa {peaks[0]}, torch {theirs['torch']} {peaks[1]}\n")
    print_table(ours["results"], theirs["results"])


if __name__ == "__main__":
    main()
