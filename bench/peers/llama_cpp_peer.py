#!/usr/bin/env python3
"""Times llama.cpp on a GGUF file, in the words of `gsa bench ... --json`.

usage: llama_cpp_peer.py prefill|decode --model FILE.gguf [--context 512,2048] [--threads 2] [--reps 5] [--tokens 32]
                         [--llama-bench PATH] [--refresh]

With flash attention, keys and values in f16, batches of 2048 tokens in parts of 512, random tokens. It runs
  llama-bench  given by --llama-bench or found on PATH: `-p CONTEXT` for prefill; for decode `-n TOKENS -d CONTEXT`, which
               reads a context of random tokens once and goes on behind it;
  llama_cpp    otherwise the Python package. Prefill is the same; for decode the cache is filled by runs of 512 tokens that
               do not see each other and are joined afterwards, which costs a fraction of reading the context.
A figure that took longer than a minute is kept in CACHE/gsa/llama_cpp.json (CACHE: $XDG_CACHE_HOME or ~/.cache), by
processor, digest of the file, threads, version and task, and used again until --refresh; each figure tells its date.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

SLOW_SECONDS = 60
RUN_LEN = 512  # tokens of a run that fills the cache; the largest number of runs is 256
BATCH_LEN = 2048


def processor():
    """What /proc says of the first processor, and how many there are."""
    first = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    fields = dict(map(str.strip, line.split(":", 1)) for line in first.splitlines() if ":" in line)
    names = ("model name", "cpu family", "model", "stepping")
    return ", ".join([fields.get(name, "?") for name in names] + [f"{os.cpu_count()} cores"])


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LlamaBench:
    """The program llama-bench."""

    def __init__(self, path, args):
        self.args = args
        self.command = [path, "-m", args.model, "-t", args.threads, "-fa", "1", "-ctk", "f16", "-ctv", "f16"]
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        self.version = "llama-bench " + " ".join((said.stdout + said.stderr).split())

    def milliseconds(self, task, context):
        num_tokens = context if task == "prefill" else self.args.tokens
        what = ["-p", context, "-n", 0] if task == "prefill" else ["-p", 0, "-n", num_tokens, "-d", context]
        command = [*self.command, *what, "-r", self.args.reps, "-o", "json"]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"llama-bench failed: {done.stderr.strip().splitlines()[-1:]}")
        return [sample / 1e6 / num_tokens for sample in json.loads(done.stdout)[0]["samples_ns"]]


class Package:
    """The library, through the Python package llama_cpp."""

    def __init__(self, args):
        import llama_cpp

        self.args, self.api = args, llama_cpp
        self.version = f"llama_cpp {llama_cpp.__version__}"
        self.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silence, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(str(args.model).encode(), params)
        if not self.model:
            sys.exit(f"llama_cpp cannot load {args.model}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.random = random.Random(1)

    @contextlib.contextmanager
    def context(self, num_tokens, num_sequences):
        params = self.api.llama_context_default_params()
        params.n_ctx = -(-num_tokens // 256) * 256
        params.n_batch, params.n_ubatch = BATCH_LEN, RUN_LEN
        params.n_seq_max, params.kv_unified = num_sequences, True
        params.n_threads = params.n_threads_batch = self.args.threads
        params.flash_attn_type = self.api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.type_k = params.type_v = self.api.GGML_TYPE_F16
        context = self.api.llama_init_from_model(self.model, params)
        if not context:
            sys.exit(f"llama_cpp cannot make a context of {num_tokens} tokens")
        try:
            yield context
        finally:
            self.api.llama_free(context)

    def run(self, context, batch):
        code = self.api.llama_decode(context, batch)
        if code != 0:
            sys.exit(f"llama_decode failed with {code}")
        self.api.llama_synchronize(context)

    def tokens(self, count):
        return (self.api.llama_token * count)(*(self.random.randrange(self.vocab) for _ in range(count)))

    def feed(self, context, count, at_once):
        """Milliseconds that random tokens take at the end of sequence 0."""
        parts = [self.tokens(min(at_once, count - begin)) for begin in range(0, count, at_once)]
        start = time.perf_counter()
        for part in parts:
            self.run(context, self.api.llama_batch_get_one(part, len(part)))
        return 1000 * (time.perf_counter() - start)

    def fill(self, context, num_tokens):
        memory = self.api.llama_get_memory(context)
        batch = self.api.llama_batch_init(RUN_LEN, 0, 1)
        for run, begin in enumerate(range(0, num_tokens, RUN_LEN)):
            batch.n_tokens = min(RUN_LEN, num_tokens - begin)
            for i, token in enumerate(self.tokens(batch.n_tokens)):
                batch.token[i], batch.pos[i] = token, begin + i
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, run
                batch.logits[i] = i + 1 == batch.n_tokens
            self.run(context, batch)
        self.api.llama_batch_free(batch)
        for run in range(1, -(-num_tokens // RUN_LEN)):
            self.api.llama_memory_seq_cp(memory, run, 0, -1, -1)
            self.api.llama_memory_seq_rm(memory, run, -1, -1)
        return memory

    def milliseconds(self, task, context_len):
        times = []
        if task == "prefill":
            with self.context(context_len, 1) as context:
                memory = self.api.llama_get_memory(context)
                self.feed(context, min(context_len, RUN_LEN), BATCH_LEN)  # warm-up
                for _ in range(self.args.reps):
                    self.api.llama_memory_clear(memory, True)
                    times.append(self.feed(context, context_len, BATCH_LEN) / context_len)
            return times
        num_runs = -(-context_len // RUN_LEN)
        with self.context(context_len + self.args.tokens, num_runs) as context:
            memory = self.fill(context, context_len)
            self.feed(context, 1, 1)  # warm-up
            for _ in range(self.args.reps):
                self.api.llama_memory_seq_rm(memory, 0, context_len, -1)
                times.append(self.feed(context, self.args.tokens, 1) / self.args.tokens)
        return times


class Kept:
    """Slow figures of earlier runs."""

    def __init__(self, is_used):
        root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        self.path, self.is_used = root / "gsa" / "llama_cpp.json", is_used
        try:
            self.figures = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.figures = {}

    def get(self, key):
        return self.figures.get(key) if self.is_used else None

    def put(self, key, figure):
        self.figures[key] = figure
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(self.figures, indent=1))
        beside.replace(self.path)


def find_peer(args):
    path = args.llama_bench or shutil.which("llama-bench")
    if path:
        return LlamaBench(path, args)
    try:
        return Package(args)
    except ImportError:
        sys.exit("no llama.cpp: put llama-bench on PATH, name it with --llama-bench, or install llama-cpp-python")


def measure(peer, task, context):
    start = time.perf_counter()
    times = peer.milliseconds(task, context)
    median = statistics.median(times)
    return {
        "policy": "llama.cpp",
        "context": context,
        "ms_per_token": median,
        "tokens_per_second": 1000 / median,
        "fraction_read": 1.0,
        "ms_per_token_min": min(times),
        "ms_per_token_max": max(times),
        "reps": len(times),
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - start,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["prefill", "decode"])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--context", default="512,2048,8192")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="decode: timed per repetition")
    parser.add_argument("--llama-bench", help="the program; default: the one on PATH")
    parser.add_argument("--refresh", action="store_true", help="measure again what was kept")
    args = parser.parse_args()
    peer, kept = find_peer(args), Kept(not args.refresh)
    machine, file = processor(), digest(args.model)
    results = []
    for context in map(int, args.context.split(",")):
        settings = [machine, file, f"{args.threads} threads", peer.version, args.task, f"{context} tokens"]
        key = "; ".join(settings + [f"{args.reps} times"] + ([f"{args.tokens} each"] if args.task == "decode" else []))
        row = kept.get(key)
        if row is None:
            row = measure(peer, args.task, context)
            if row["seconds"] > SLOW_SECONDS:
                kept.put(key, row)
        results.append(row)
    print(json.dumps({"task": args.task, "model": str(args.model), "threads": args.threads, "version": peer.version,
                      "cache_dtype": "f16", "processor": machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
