"""Times training steps of a Llama in plain PyTorch, in the words of `gsa bench train ... --json`.

usage: flex_attention.py [--context 4096,32768] [--batch-tokens 32768] [--reps 5] [--device cuda] [--attention flex,sdpa]

Weights are random and frozen in bf16. What trains, in f32, is LoRA on all projections, merged into the weights in every
step, and one gist embedding. Attention is one of
  flex  FlexAttention under the gist mask of one level. A row is stored as [gists | raw tokens], cut every 16 raw tokens, so
        that most blocks of the mask are empty; the block mask is made once.
  sdpa  scaled_dot_product_attention(is_causal=True) over the raw tokens alone.
Layers and loss are compiled by torch.compile (on a GPU, or with --compile).
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

NUM_SINKS = 3
NUM_LOCAL = 1
WARMUP_STEPS = 3
LOSS_BLOCK = 8192  # rows of logits at once
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")


class GistLayout:
    """Chunks of a fixed size; the sinks lie in the first, which is longer by them."""

    def __init__(self, num_raw, chunk):
        self.num_raw, self.chunk = num_raw, chunk
        self.num_gists = max(1, -(-(num_raw - NUM_SINKS) // chunk))

    def positions(self, device):
        """RoPE positions of [gists | raw]: a gist stands where the last raw token of its chunk does."""
        raw = torch.arange(self.num_raw, device=device)
        ends = NUM_SINKS + self.chunk * torch.arange(1, self.num_gists + 1, device=device)
        return torch.cat([ends.clamp(max=self.num_raw) - 1, raw])

    def mask_mod(self):
        num_gists, chunk = self.num_gists, self.chunk

        def chunk_of(entry):
            raw = entry - num_gists
            return torch.where(entry < num_gists, entry, (raw - NUM_SINKS).clamp(min=0) // chunk)

        def sees(b, h, query, key):
            query_is_gist, key_is_gist = query < num_gists, key < num_gists
            distance = chunk_of(query) - chunk_of(key)
            came_before = torch.where(
                query_is_gist,
                distance >= 0,  # a gist closes its chunk
                torch.where(key_is_gist, distance > 0, key <= query),
            )
            is_near = (distance <= NUM_LOCAL) | (key - num_gists < NUM_SINKS)  # true for every gist
            return came_before & is_near

        return sees

    def block_mask(self, device):
        length = self.num_gists + self.num_raw
        return create_block_mask(
            self.mask_mod(), None, None, length, length, device=device, _compile=device.type == "cuda"
        )


def rms_norm(x, weight):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * weight


def rotate(x, cos, sin):
    """x [B, heads, T, d]; cos and sin [T, d / 2]."""
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def run_layer(x, cos, sin, block_mask, weights, loras, num_heads, num_kv_heads):
    """x [B, T, hidden]. Attention is plain causal without a block mask."""
    merged = {
        name: (weights[name].float() + loras[name + ".b"] @ loras[name + ".a"]).to(x.dtype) for name in PROJECTIONS
    }
    batch, length, _ = x.shape
    normed = rms_norm(x, weights["attention_norm"])
    q, k, v = (
        F.linear(normed, merged[name]).view(batch, length, heads, -1).transpose(1, 2)
        for name, heads in (("q", num_heads), ("k", num_kv_heads), ("v", num_kv_heads))
    )
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    if block_mask is None:
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    else:
        attended = flex_attention(q, k, v, block_mask=block_mask, enable_gqa=True)
    x = x + F.linear(attended.transpose(1, 2).reshape(batch, length, -1), merged["o"])
    normed = rms_norm(x, weights["mlp_norm"])
    gated = F.silu(F.linear(normed, merged["gate"])) * F.linear(normed, merged["up"])
    return x + F.linear(gated, merged["down"])


def loss_block(hidden, weight, labels):
    """Sum of the cross entropy of some rows and its gradient."""
    logits = F.linear(hidden, weight).float()
    log_probs = F.log_softmax(logits, -1)
    loss = F.nll_loss(log_probs, labels, reduction="sum")
    is_label = torch.arange(logits.shape[1], device=labels.device) == labels[:, None]
    return loss, (log_probs.exp() - is_label.float()).to(hidden.dtype) @ weight


class TokenLoss(torch.autograd.Function):
    """Mean cross entropy; the gradient is computed on the way, so that logits live for a block only."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, block_fn):
        gradient = torch.empty_like(hidden)
        total = hidden.new_zeros((), dtype=torch.float32)
        for rows in torch.arange(len(labels)).split(LOSS_BLOCK):
            part = slice(rows[0].item(), rows[-1].item() + 1)
            loss, gradient[part] = block_fn(hidden[part], weight, labels[part])
            total += loss
        ctx.save_for_backward(gradient)
        ctx.num_labels = len(labels)
        return total / len(labels)

    @staticmethod
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return gradient * (upstream / ctx.num_labels), None, None, None


class Peer:
    def __init__(self, args):
        self.args, self.device = args, torch.device(args.device)
        self.generator = torch.Generator().manual_seed(args.seed)
        head_size = args.hidden // args.heads
        sizes = {
            "q": (args.heads * head_size, args.hidden),
            "k": (args.kv_heads * head_size, args.hidden),
            "v": (args.kv_heads * head_size, args.hidden),
            "o": (args.hidden, args.heads * head_size),
            "gate": (args.intermediate, args.hidden),
            "up": (args.intermediate, args.hidden),
            "down": (args.hidden, args.intermediate),
        }
        self.embedding = self.random((args.vocab, args.hidden), 0.02).bfloat16()
        self.final_norm = torch.ones(args.hidden, device=self.device, dtype=torch.bfloat16)
        self.layers, self.parameters = [], []
        for _ in range(args.layers):
            weights = {name: self.random(size, 0.02).bfloat16() for name, size in sizes.items()}
            weights |= {name: torch.ones_like(self.final_norm) for name in ("attention_norm", "mlp_norm")}
            loras = {}
            for name, (rows, cols) in sizes.items():
                loras[name + ".a"] = self.random((args.rank, cols), cols**-0.5).requires_grad_()
                loras[name + ".b"] = torch.zeros(rows, args.rank, device=self.device, requires_grad=True)
            self.layers.append((weights, loras))
            self.parameters += loras.values()
        self.gist = self.embedding.float().mean(0).requires_grad_()
        self.layer_fn, self.loss_fn = run_layer, loss_block
        if args.compile:
            self.layer_fn = torch.compile(run_layer, dynamic=False)
            self.loss_fn = torch.compile(loss_block, dynamic=False)
        self.num_weights = {name: rows * cols for name, (rows, cols) in sizes.items()}
        self.frequencies = args.rope_theta ** (-torch.arange(0, head_size, 2, device=self.device) / head_size)

    def random(self, size, scale):
        return (torch.randn(size, generator=self.generator) * scale).to(self.device)

    def loss(self, tokens, num_gists, angles, block_mask):
        """tokens [B, n] under a layout with so many gists in front of them."""
        x = self.embedding[tokens]
        if num_gists:
            gists = self.gist.to(x.dtype).expand(len(tokens), num_gists, -1)
            x = torch.cat([gists, x], 1)
        else:
            x.requires_grad_()  # so that the first layer needs no graph of its own; well below 1 % of a step
        cos, sin = angles.cos(), angles.sin()
        for weights, loras in self.layers:
            inputs = (x, cos, sin, block_mask, weights, loras, self.args.heads, self.args.kv_heads)
            if self.args.checkpoint_activations:
                x = torch.utils.checkpoint.checkpoint(self.layer_fn, *inputs, use_reentrant=False)
            else:
                x = self.layer_fn(*inputs)
        hidden = rms_norm(x[:, num_gists:-1], self.final_norm).flatten(0, 1)
        return TokenLoss.apply(hidden, self.embedding, tokens[:, 1:].flatten(), self.loss_fn)

    def step_flops(self, num_tokens, num_labels):
        """Of the products with weights, counted as `gsa bench train` does (src/train/flops.h)."""
        qkv = sum(self.num_weights[name] for name in ("q", "k", "v"))
        rest = sum(self.num_weights.values()) - qkv
        num_layers = self.args.layers
        per_token = 3 * (num_layers * qkv + (num_layers - 1) * rest)
        per_label = 3 * rest + 2 * self.embedding.numel()
        return 2 * (per_token * num_tokens + per_label * num_labels)

    def time_steps(self, attention, context):
        """Milliseconds of every timed step, tokens of a step (raw and gists), raw tokens, rows."""
        rows = max(1, self.args.batch_tokens // context)
        num_gists, block_mask = 0, None
        positions = torch.arange(context, device=self.device)
        if attention == "flex":
            layout = GistLayout(context, self.args.chunk)
            num_gists, positions = layout.num_gists, layout.positions(self.device)
            block_mask = layout.block_mask(self.device)
        angles = positions[:, None] * self.frequencies
        trained = self.parameters + ([self.gist] if num_gists else [])
        optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        num_steps = WARMUP_STEPS + self.args.reps
        batches = [
            torch.randint(self.args.vocab, (rows, context), generator=self.generator).to(self.device)
            for _ in range(num_steps)
        ]
        laps = Laps(self.device)
        for step, tokens in enumerate(batches):
            if step == WARMUP_STEPS:
                reset_peak_memory(self.device)  # that of compilation does not count
                laps.mark()
            optimizer.zero_grad(set_to_none=True)
            self.loss(tokens, num_gists, angles, block_mask).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            if step >= WARMUP_STEPS:
                laps.mark()
        return laps.milliseconds(), rows * (context + num_gists), rows * context, rows

    def measure(self, attention, context, peak_flops):
        policy = f"flex gsa@{self.args.chunk}" if attention == "flex" else "sdpa full"
        result = {"policy": policy, "context": context, "rows": max(1, self.args.batch_tokens // context)}
        torch._dynamo.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            times, tokens, raw_tokens, rows = self.time_steps(attention, context)
        except torch.OutOfMemoryError:
            return result | {"error": "out of memory"}
        except (RuntimeError, NotImplementedError) as error:  # FlexAttention trains on GPUs only
            return result | {"error": (str(error).splitlines() or [type(error).__name__])[0][:200]}
        median = statistics.median(times)
        return result | {
            "ms_per_step": median,
            "ms_per_step_min": min(times),
            "ms_per_step_max": max(times),
            "tokens_per_second": 1000 * tokens / median,
            "raw_tokens_per_second": 1000 * raw_tokens / median,
            "share_of_peak": 1000 * self.step_flops(tokens, raw_tokens - rows) / median / peak_flops,
            "peak_memory_bytes": peak_memory_bytes(self.device),
            "reps": len(times),
        }


class Laps:
    """Points in the work of a device, which the host runs ahead of."""

    def __init__(self, device):
        self.is_cuda, self.marks = device.type == "cuda", []

    def mark(self):
        if not self.is_cuda:
            self.marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def milliseconds(self):
        pairs = list(zip(self.marks, self.marks[1:]))
        if not self.is_cuda:
            return [1000 * (end - begin) for begin, end in pairs]
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairs]


def reset_peak_memory(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory_bytes(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def measure_peak_flops(device):
    """The best of a few large products, as `gsa bench train` measures it."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, device=device, dtype=torch.bfloat16)
    best = 0
    for rep in range(5):
        start = time.perf_counter()
        for _ in range(4):
            product = a @ a
        product[0, 0].item()
        if rep > 0:
            best = max(best, 8 * size**3 / (time.perf_counter() - start))
    return best


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--context", default="4096,8192,16384,32768", help="raw tokens per row")
    parser.add_argument("--attention", default="flex,sdpa")
    parser.add_argument("--batch-tokens", type=int, default=32768, help="raw tokens per step")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    parser.add_argument("--checkpoint-activations", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=16, help="raw tokens per gist")
    parser.add_argument("--rank", type=int, default=32)
    for name, size in dict(layers=30, hidden=576, heads=9, kv_heads=3, intermediate=1536, vocab=49152).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=size)
    parser.add_argument("--rope-theta", type=float, default=100000.0)
    args = parser.parse_args()
    if args.compile is None:
        args.compile = torch.device(args.device).type == "cuda"
    return args


def main():
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    peak_flops = measure_peak_flops(torch.device(args.device))
    peer = Peer(args)
    results = []
    for context in map(int, args.context.split(",")):
        for attention in args.attention.split(","):
            results.append(peer.measure(attention, context, peak_flops))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    head = {"task": "train", "model": "random weights", "torch": torch.__version__, "dtype": "bf16", "device": args.device}
    print(json.dumps(head | {"compiled": args.compile, "peak_flops": peak_flops, "results": results}, indent=2))


if __name__ == "__main__":
    main()
