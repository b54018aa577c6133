#!/usr/bin/env python3
"""Times gsa and llama.cpp on the same GGUF files and threads, one after the other, and prints tables (Markdown).

usage: bench/cpu.py [--tasks decode,prefill] [--formats shipped,q4_0,bf16] [--threads 2] [--reps 5] [--long]
                    [--llama-bench PATH] [--json FILE] [--svg FILE]

Per task: every policy of gsa and llama.cpp on every weight format (bench/requantize.py writes those that are not shipped),
and from these how many times faster gsa is than llama.cpp on the format on which llama.cpp is fastest at that length.
`gsa bench` has the meaning of its columns, bench/peers/llama_cpp_peer.py how llama.cpp runs.
"""

import argparse
import json
import math
import os
import pathlib
import sys

from requantize import FILE_TYPES, requantize
from run import ROOT, bundled_model, run_json

PEER = ROOT / "bench" / "peers" / "llama_cpp_peer.py"
POLICIES = "full,gsa@8,gsa@16,gsa@32,gsa@4-4,gsa@8-4,gsa@16-16-16:tokens=1024"
CONTEXTS = {"decode": [128, 2048, 8192], "prefill": [512, 2048, 8192]}
LONG = {"decode": [32768, 131072], "prefill": [32768]}
PEER_LIMIT = {"decode": 32768, "prefill": 32768}  # llama.cpp would need hours
PLOT_COLOURS = ["#c0392b", "#222222", "#2874a6", "#1e8449", "#b9770e", "#7d3c98", "#148f77", "#839192"]


def weight_file(model, name):
    """The model in a format, made once in the user's cache."""
    if name == "shipped":
        return model
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "gsa"
    path = root / f"{model.stem}.{name}.gguf"
    if not path.exists() or path.stat().st_mtime < model.stat().st_mtime:
        root.mkdir(parents=True, exist_ok=True)
        requantize(model, name, path)
    return path


def measure(task, args):
    """All rows of a task, each with its format and who it is, and what `gsa bench` says of the machine."""
    contexts = args.context or CONTEXTS[task] + (LONG[task] if args.long else [])
    rows, headers = [], {}
    for name in args.formats.split(","):
        shared = ["--model", weight_file(args.model, name), "--threads", args.threads, "--reps", args.reps]
        ours = [args.gsa, "bench", task, *shared, "--policies", args.policies, "--dtype", args.dtype, "--json"]
        ours = run_json([*ours, "--context", ",".join(map(str, contexts))])
        theirs = [c for c in contexts if c <= PEER_LIMIT[task]]
        peer = [sys.executable, PEER, task, *shared, "--context", ",".join(map(str, theirs))]
        peer += ["--llama-bench", args.llama_bench] if args.llama_bench else []
        peer += ["--refresh"] if args.refresh else []
        peer = run_json(peer) if theirs else {"results": []}
        rows += [{**row, "format": name, "who": "llama.cpp"} for row in peer["results"]]
        rows += [{**row, "format": name, "who": f"gsa, {row['policy']}"} for row in ours["results"]]
        headers[name] = {key: value for key, value in {**peer, **ours}.items() if key != "results"}
    return rows, headers


def find(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def strongest_peer(rows, context, value="ms_per_token"):
    """The peer's row on the format on which it is fastest, or None where it was not timed."""
    return min(find(rows, context=context, who="llama.cpp"), key=lambda row: row[value], default=None)


def table(titles, rows):
    lines = ["| " + " | ".join(map(str, titles)) + " |", "|" + "---|" * len(titles)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def all_rows(task, rows, headers):
    """Every measurement; the last column compares with llama.cpp on the same file, median by median."""
    limit, amount = ("share_of_stream", "bytes_per_token") if task == "decode" else ("share_of_peak", "flops_per_token")
    cells = []
    for context in dict.fromkeys(row["context"] for row in rows):
        for name in headers:
            peer = next(iter(find(rows, context=context, format=name, who="llama.cpp")), None)
            for row in find(rows, context=context, format=name):
                spread = f"{row['ms_per_token']:.3g} ({row['ms_per_token_min']:.3g} to {row['ms_per_token_max']:.3g})"
                ratio = f"{peer['ms_per_token'] / row['ms_per_token']:.2f}" if peer else "-"
                cost = [f"{row[amount] / 1e6:.1f}", f"{100 * row[limit]:.0f} %"] if limit in row else ["-", "-"]
                memory = f"{row['peak_memory_bytes'] / 2**20:.0f}" if "peak_memory_bytes" in row else "-"
                who = row["who"] + (", random keys" if row.get("store") == "random" else "")
                cells.append(
                    [context, name, who, spread, f"{row['tokens_per_second']:.4g}", f"{100 * row['fraction_read']:.1f} %"]
                    + cost
                    + [memory, ratio]
                )
    costs = ["MB per token", "of stream"] if task == "decode" else ["MFLOP per token", "of peak"]
    titles = ["context", "format", "who", "ms per token", "tokens/s", "keys read", *costs, "MiB", "times llama.cpp"]
    return table(titles, cells)


def ratios(rows, value):
    """Times faster than llama.cpp on its strongest format, by policy and context."""
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    peers = {context: strongest_peer(rows, context, value) for context in contexts}
    cells = [["llama.cpp, ms (format)"]]
    for peer in peers.values():
        cells[0].append(f"{peer[value]:.3g} ({peer['format']})" if peer else "-")
    for who in dict.fromkeys(row["who"] for row in rows if row["who"] != "llama.cpp"):
        line = [who]
        for context, peer in peers.items():
            own = find(rows, context=context, who=who, format=peer["format"]) if peer else []
            line.append(f"{peer[value] / own[0][value]:.2f}" if own else "-")
        cells.append(line)
    return table(["times faster", *contexts], cells)


def plot_svg(task, rows, headers):
    """ms per token over the context, both logarithmic; of each line the format on which it is fastest."""
    lines = {}
    for row in rows:
        points = lines.setdefault(row["who"], {})
        points[row["context"]] = min(row["ms_per_token"], points.get(row["context"], math.inf))
    xs = sorted({row["context"] for row in rows})
    values = [value for points in lines.values() for value in points.values()]
    low, high = math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05
    left, top, width, height = 70, 40, 560, 340

    def x_of(context):
        return left + width * math.log(context / xs[0]) / (math.log(xs[-1] / xs[0]) or 1)

    def y_of(value):
        return top + height * (high - math.log10(value)) / (high - low)

    title = f"{task}: ms per token over tokens of context, {next(iter(headers.values()))['threads']} threads"
    parts = [f'<text x="{left}" y="20" font-size="15">{title}</text>']
    for context in xs:
        parts.append(f'<line x1="{x_of(context):.1f}" x2="{x_of(context):.1f}" y1="{top}" y2="{top + height}" stroke="#ddd"/>')
        parts.append(f'<text x="{x_of(context):.1f}" y="{top + height + 18}" text-anchor="middle">{context}</text>')
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for value in (factor * 10.0**exponent for factor in (1, 2, 5)):
            if low <= math.log10(value) <= high:
                y = y_of(value)
                parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
                parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for i, (who, points) in enumerate(lines.items()):
        colour = PLOT_COLOURS[i % len(PLOT_COLOURS)]
        coordinates = " ".join(f"{x_of(c):.1f},{y_of(points[c]):.1f}" for c in sorted(points))
        parts.append(f'<polyline points="{coordinates}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for c in points:
            parts.append(f'<circle cx="{x_of(c):.1f}" cy="{y_of(points[c]):.1f}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 14}" y="{top + 14 + 20 * i}" fill="{colour}">{who}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 {top + height + 40}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def print_task(task, rows, headers):
    print(f"\n**{task}**, ms per token: median (fastest to slowest repetition)\n")
    print(all_rows(task, rows, headers))
    print("Times faster than llama.cpp on its strongest format at that length, by medians:\n")
    print(ratios(rows, "ms_per_token"))
    print("The same by fastest repetitions, which other work on the machine disturbs least:\n")
    print(ratios(rows, "ms_per_token_min"))
    for row in find(rows, who="llama.cpp"):
        if row["seconds"] > 60:
            print(f"llama.cpp, {row['format']}, {row['context']}: measured {row['measured']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gsa", type=pathlib.Path, default=ROOT / "build" / "release" / "gsa")
    parser.add_argument("--model", type=pathlib.Path, help="a GGUF file; default: the one of scripts/setup.sh")
    parser.add_argument("--tasks", default="decode,prefill")
    parser.add_argument("--formats", default="shipped,q4_0,bf16", help=f"shipped, {', '.join(FILE_TYPES)}")
    parser.add_argument("--policies", default=POLICIES)
    parser.add_argument("--context", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--long", action="store_true", help="32k tokens too, and 128k for gsa's decode")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--reps", default="5")
    parser.add_argument("--dtype", default="file", help="of gsa; file: weights as they lie")
    parser.add_argument("--llama-bench", help="see the peer")
    parser.add_argument("--refresh", action="store_true", help="measure llama.cpp again where a figure was kept")
    parser.add_argument("--json", type=pathlib.Path, help="file for all measurements")
    parser.add_argument("--svg", type=pathlib.Path, help="file for a plot; the task is added to its name")
    args = parser.parse_args()
    args.model = args.model or bundled_model()
    everything = {}
    for task in args.tasks.split(","):
        rows, headers = measure(task, args)
        everything[task] = {"headers": headers, "results": rows}
        first = next(iter(headers.values()))
        print(f"\n{args.model.name}, {args.threads} threads, {first.get('processor', 'no llama.cpp')}; ", end="")
        print(f"gsa in {first['dtype']}; {first.get('version', '')}; memory is read at ", end="")
        print(f"{first['stream_bytes_per_second'] / 1e9:.1f} GB/s, products run at {first['peak_flops'] / 1e9:.0f} GFLOP/s")
        print_task(task, rows, headers)
        if args.svg:
            args.svg.with_stem(f"{args.svg.stem}-{task}").write_text(plot_svg(task, rows, headers))
    if args.json:
        args.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
