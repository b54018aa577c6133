"""Times transformers on the weights of a GGUF file, in the words of `gsa bench ... --json`.

usage: transformers_peer.py prefill|decode|generate --model FILE.gguf [--context 512,2048] [--threads 2] [--reps 5] [--tokens 32]
       [--prompts FILE]

Weights are de-quantised to bf16. Contexts are random tokens, read in one forward; decode goes on behind them, greedily.
generate answers prompts that `gsa bench eval --prompts FILE` wrote, one after the other, greedily.
Both attention implementations are timed: `sdpa` has a slow path on CPUs for one query row in bf16, `eager` has not.
"""

import argparse
import json
import pathlib
import statistics
import time
import warnings

import torch

PROMPT_LEN = 4


def load(path, attention):
    from transformers import AutoModelForCausalLM, GgufConfig

    warnings.filterwarnings("ignore")
    return AutoModelForCausalLM.from_pretrained(
        str(path.parent),
        gguf_file=path.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        attn_implementation=attention,
    ).eval()


def random_ids(model, count, generator):
    return torch.randint(model.config.vocab_size, (1, count), generator=generator)


def read(model, ids):
    """The cache that holds a context, and the seconds that reading it took."""
    start = time.perf_counter()
    out = model(ids, use_cache=True, logits_to_keep=1)
    return out.past_key_values, time.perf_counter() - start


def time_prefill(model, num_context, args, generator):
    read(model, random_ids(model, min(num_context, 256), generator))  # warm-up
    ids = [random_ids(model, num_context, generator) for _ in range(args.reps)]
    return [1000 * read(model, one)[1] / num_context for one in ids]


def decode(model, cache, num_tokens, generator):
    """Milliseconds per token behind a context, which the cache holds afterwards as before."""
    num_context = cache.get_seq_length()
    logits = model(random_ids(model, PROMPT_LEN, generator), past_key_values=cache, logits_to_keep=1).logits
    start = time.perf_counter()
    for _ in range(num_tokens):
        token = logits[:, -1:].argmax(-1)
        logits = model(token, past_key_values=cache, logits_to_keep=1).logits
    seconds = time.perf_counter() - start
    cache.crop(num_context - cache.get_seq_length())  # negative: tokens to remove
    return 1000 * seconds / num_tokens


def time_decode(model, num_context, args, generator):
    cache, _ = read(model, random_ids(model, num_context, generator))
    decode(model, cache, args.tokens, generator)  # warm-up
    return [decode(model, cache, args.tokens, generator) for _ in range(args.reps)]


def generate(model, prompts):
    """Seconds per prompt, and the mean number of tokens generated."""
    num_tokens = 0
    start = time.perf_counter()
    for prompt in prompts:
        ids = torch.tensor([prompt["ids"]])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=prompt["max_tokens"],
            do_sample=False,
            eos_token_id=prompt["ends"],
            pad_token_id=prompt["ends"][0],
        )
        num_tokens += out.shape[1] - ids.shape[1]
    return (time.perf_counter() - start) / len(prompts), num_tokens / len(prompts)


def time_generate(args):
    prompts = [json.loads(line) for line in args.prompts.read_text().splitlines()]
    results = []
    for attention in args.attention.split(","):
        model = load(args.model, attention)
        generate(model, prompts[:1])  # warm-up
        timed = [generate(model, prompts) for _ in range(args.reps)]
        seconds = [one[0] for one in timed]
        results.append(
            {
                "policy": f"transformers {attention}",
                "items": len(prompts),
                "seconds_per_item": statistics.median(seconds),
                "seconds_per_item_min": min(seconds),
                "seconds_per_item_max": max(seconds),
                "prompt_tokens": statistics.mean(len(prompt["ids"]) for prompt in prompts),
                "answer_tokens": timed[0][1],
                "fraction_read": 1.0,
                "reps": args.reps,
            }
        )
    return results


def time_random(args):
    """Prefill or decode of random tokens at every length."""
    generator = torch.Generator().manual_seed(1)
    measure = time_prefill if args.task == "prefill" else time_decode
    results = []
    for attention in args.attention.split(","):
        model = load(args.model, attention)
        for num_context in map(int, args.context.split(",")):
            times = measure(model, num_context, args, generator)
            median = statistics.median(times)
            results.append(
                {
                    "policy": f"transformers {attention}",
                    "context": num_context,
                    "ms_per_token": median,
                    "tokens_per_second": 1000 / median,
                    "fraction_read": 1.0,
                    "ms_per_token_min": min(times),
                    "ms_per_token_max": max(times),
                    "reps": len(times),
                }
            )
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["prefill", "decode", "generate"])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--context", default="512,2048,8192")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--attention", default="sdpa,eager")
    parser.add_argument("--prompts", type=pathlib.Path, help="generate: a JSON object per line")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        results = time_generate(args) if args.task == "generate" else time_random(args)
    print(json.dumps({"task": args.task, "dtype": "bf16", "threads": args.threads, "results": results}, indent=2))


if __name__ == "__main__":
    main()
