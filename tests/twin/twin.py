"""Training with gist sparse attention in plain PyTorch: the twin that the C++ side is compared with.

Written from the description of the method alone (DESIGN.md, "The method"), with what the library avoids: tokens and
gists interleaved in one stream, a dense boolean mask over all of it, one row at a time, everything in float64.
"""

import dataclasses
import math

import torch

SINKS = 3
LOCAL_CHUNKS = 1
WORD_STARTS = " \t\n\r\v\f.,;:!?-—()[]{}\"'"


def starts_word(text):
    return text == "" or text[0] in WORD_STARTS


@dataclasses.dataclass
class Row:
    """A training row: documents, then suffixes (tokens, number of prompt tokens) that do not see each other."""

    policy: str  # gsa@CHUNKS[:ratio=R][:gists=all], or full
    pieces: list
    suffixes: list


@dataclasses.dataclass
class Policy:
    chunk_sizes: list
    ratio: int
    all_gists: bool


def parse_policy(text):
    name, *keys = text.split(":")
    sizes = [int(size) for size in name.split("@")[1].split("-")] if "@" in name else []
    values = dict(key.split("=") for key in keys)
    return Policy(sizes, int(values.get("ratio", math.prod(sizes))), values.get("gists") == "all")


class Stream:
    """Tokens and gists of a row in their order (method §1), suffixes at the end."""

    def __init__(self, row, policy, word_starts):
        self.chunk_sizes = policy.chunk_sizes
        self.level, self.token, self.position, self.branch, self.children = [], [], [], [], []
        self.nodes = [[] for _ in policy.chunk_sizes]  # per level: places of its gists
        self.num_raw = 0
        for piece in row.pieces:
            self.add_piece(piece, word_starts)
        self.num_context = len(self.level)
        for number, (tokens, _) in enumerate(row.suffixes):
            for offset, token in enumerate(tokens):
                self.add(-1, token, self.num_raw + offset, number, [])

    def add(self, level, token, position, branch, children):
        self.level.append(level)
        self.token.append(token)
        self.position.append(position)
        self.branch.append(branch)
        self.children.append(children)
        return len(self.level) - 1

    def add_raw(self, token):
        self.num_raw += 1
        return self.add(-1, token, self.num_raw - 1, -1, [])

    def tokens_under(self, place):
        """Raw tokens that a gist stands for."""
        if self.level[place] < 0:
            return [self.token[place]]
        return [token for child in self.children[place] for token in self.tokens_under(child)]

    def fold(self, level, unfolded):
        """A gist of `level` over what has none yet; and what that completes above."""
        place = self.add(level, -1, self.num_raw - 1, -1, unfolded[level])
        unfolded[level] = []
        self.nodes[level].append(place)
        if level + 1 < len(self.chunk_sizes):
            unfolded[level + 1].append(place)
            if len(unfolded[level + 1]) == self.chunk_sizes[level + 1]:
                self.fold(level + 1, unfolded)

    def add_piece(self, tokens, word_starts):
        if not self.chunk_sizes:
            for token in tokens:
                self.add_raw(token)
            return
        unfolded = [[] for _ in self.chunk_sizes]
        begin = 0
        while begin < len(tokens):
            nominal = begin + self.chunk_sizes[0] + (0 if self.nodes[0] else SINKS)
            window = range(nominal, min(nominal + self.chunk_sizes[0] // 2 + 1, len(tokens)))
            end = next((at for at in window if word_starts[tokens[at]]), min(nominal, len(tokens)))
            unfolded[0] += [self.add_raw(token) for token in tokens[begin:end]]
            self.fold(0, unfolded)
            begin = end
        for level in range(1, len(self.chunk_sizes)):
            if unfolded[level]:
                self.fold(level, unfolded)


def gist_mask(stream):
    """Method §2: [query, key]."""
    level = torch.tensor(stream.level)
    branch = torch.tensor(stream.branch)
    order = torch.arange(len(level))
    num_levels = len(stream.chunk_sizes)
    before = [torch.cumsum(level == l, 0) - (level == l).long() for l in range(num_levels)]  # u_l
    before.append(torch.zeros_like(level))  # u_L
    is_sink = (level == -1) & (torch.tensor(stream.position) < SINKS) & (branch == -1)
    allowed = is_sink[None, :].expand(len(level), -1).clone()
    for key_level in range(-1, num_levels):
        distance = before[key_level + 1][:, None] - before[key_level + 1][None, :]
        reads = (level[:, None] <= key_level + 1) & (level[None, :] == key_level)
        allowed |= reads & (distance <= LOCAL_CHUNKS)
    is_mine = (branch[None, :] == -1) | (branch[None, :] == branch[:, None])
    return allowed & is_mine & (order[None, :] <= order[:, None])


def num_chosen(stream, policy, group, level):
    """Method §3.6, budget `ratio`; the keys of the context count."""
    num_keys = stream.num_context
    num_nodes = len(stream.nodes[level])
    return min(num_keys // policy.ratio // group // policy.chunk_sizes[0] + 1, max(1, num_nodes // 4))


def choose(stream, policy, query, keys, group):
    """Method §3.1 and §3.2 for one query head: query [d], keys [n, d]. Chosen places per level."""
    candidates = stream.nodes[-1]
    chosen = {}
    for level in reversed(range(len(stream.chunk_sizes))):
        scores = keys[candidates] @ query
        best = scores.topk(min(num_chosen(stream, policy, group, level), len(candidates))).indices
        chosen[level] = [candidates[i] for i in best.tolist()]
        if level > 0:
            candidates = [child for place in chosen[level] for child in stream.children[place]]
    return chosen


def unfolding_mask(stream, policy, mask, q, k):
    """Method §3.4: the mask of a layer that selects. q [n, H, d], k [n, H_kv, d]; [H_kv, n, n]."""
    group = q.shape[1] // k.shape[1]
    per_head = mask[None].repeat(k.shape[1], 1, 1)
    local = [raw for place in stream.nodes[0][-LOCAL_CHUNKS:] for raw in stream.children[place]]
    gists = [place for nodes in stream.nodes for place in nodes]
    raw = [place for place in range(stream.num_context) if stream.level[place] == -1]
    for row in range(stream.num_context, len(stream.level)):
        for kv_head in range(k.shape[1]):
            seen = per_head[kv_head, row]
            seen[: stream.num_context] = False
            seen[raw[:SINKS]] = True
            seen[local] = True
            if policy.all_gists:
                seen[gists] = True
            for head in range(kv_head * group, (kv_head + 1) * group):
                chosen = choose(stream, policy, q[row, head], k[:, kv_head], group)
                for level, places in chosen.items():
                    if not policy.all_gists:
                        seen[places] = True
                    if level == 0:
                        seen[[child for place in places for child in stream.children[place]]] = True
    return per_head


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotate(x, angles):
    """Rotates the pairs (i, i + d/2) of every head: x [n, H, d], angles [n, d/2]."""
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Twin:
    """A Llama, Qwen2 or Qwen3 model: `weights` under their names at Hugging Face, a LoRA under
    `layers.N.TARGET.lora_A` and `lora_B`, the gists' embeddings under `gist_embeddings`. `gist_input` is what gists
    start from: `row`, or `content`, which adds the mean embedding of their raw tokens."""

    def __init__(self, config, inv_freq, weights, lora_scale, gist_input):
        self.config, self.inv_freq, self.weights, self.lora_scale = config, inv_freq, weights, lora_scale
        self.gist_input = gist_input

    def linear(self, x, layer, name):
        weight = self.weights[f"model.layers.{layer}.{name}.weight"]
        factor = f"layers.{layer}.{name.split('.')[-1]}.lora_"
        if factor + "A" in self.weights:
            weight = weight + self.lora_scale * self.weights[factor + "B"] @ self.weights[factor + "A"]
        return torch.nn.functional.linear(x, weight, self.weights.get(f"model.layers.{layer}.{name}.bias"))

    def norm(self, x, name):
        return rms_norm(x, self.weights[name + ".weight"], self.config.rms_norm_eps)

    def attention(self, x, layer, stream, policy, mask):
        d = self.config.head_dim
        name = f"model.layers.{layer}.self_attn."
        q, k, v = (self.linear(x, layer, f"self_attn.{p}_proj").unflatten(-1, (-1, d)) for p in "qkv")
        if name + "q_norm.weight" in self.weights:
            q, k = self.norm(q, name + "q_norm"), self.norm(k, name + "k_norm")
        angles = torch.tensor(stream.position, dtype=torch.float64)[:, None] * self.inv_freq[None]
        q, k = rotate(q, angles), rotate(k, angles)
        group = q.shape[1] // k.shape[1]
        masks = mask[None]
        if layer > 0 and stream.chunk_sizes:
            with torch.no_grad():
                masks = unfolding_mask(stream, policy, mask, q, k)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / math.sqrt(d)
        masks = masks.expand(q.shape[1] // group, -1, -1).repeat_interleave(group, 0)
        p = scores.masked_fill(~masks, -math.inf).softmax(-1)
        return self.linear(torch.einsum("hij,jhd->ihd", p, v).flatten(1), layer, "self_attn.o_proj")

    def embed(self, stream, place):
        embedding, gists = self.weights["model.embed_tokens.weight"], self.weights["gist_embeddings"]
        level = stream.level[place]
        if level < 0:
            return embedding[stream.token[place]]
        row = gists[min(level, len(gists) - 1)]
        return row if self.gist_input == "row" else row + embedding[stream.tokens_under(place)].mean(0)

    def logits(self, stream, policy):
        """[n, vocab] of a whole stream."""
        x = torch.stack([self.embed(stream, place) for place in range(len(stream.level))])
        mask = gist_mask(stream)
        for layer in range(self.config.num_hidden_layers):
            name = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, name + "input_layernorm"), layer, stream, policy, mask)
            h = self.norm(x, name + "post_attention_layernorm")
            gate = torch.nn.functional.silu(self.linear(h, layer, "mlp.gate_proj"))
            x = x + self.linear(gate * self.linear(h, layer, "mlp.up_proj"), layer, "mlp.down_proj")
        output = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return self.norm(x, "model.norm") @ output.T


def labels(row, stream):
    """Places that predict, and what. Without suffixes every raw token but the first is a target (gists are none);
    with them, the answers."""
    raw = [place for place, level in enumerate(stream.level) if level == -1]
    if not row.suffixes:
        return raw[:-1], [stream.token[place] for place in raw[1:]]
    places, targets = [], []
    begin = stream.num_context
    for tokens, num_prompt in row.suffixes:
        for i in range(max(1, num_prompt), len(tokens)):
            places.append(begin + i - 1)
            targets.append(tokens[i])
        begin += len(tokens)
    return places, targets


def batch_loss(twin, rows, word_starts):
    """Mean cross entropy over the targets of all rows, and their logits [R, vocab]."""
    logits, targets = [], []
    for row in rows:
        policy = parse_policy(row.policy)
        stream = Stream(row, policy, word_starts)
        places, row_targets = labels(row, stream)
        logits.append(twin.logits(stream, policy)[places])
        targets += row_targets
    logits = torch.cat(logits)
    return torch.nn.functional.cross_entropy(logits, torch.tensor(targets)), logits


@dataclasses.dataclass
class Recipe:
    num_steps: int = 10
    warmup: float = 0.2
    lr: float = 2e-3
    gist_lr: float = 3e-3
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    max_norm: float = 1.0


def lr_factor(recipe, step):
    """Linear warm-up to 1, then half a cosine to 0."""
    rise = (step + 1) / max(1.0, recipe.warmup * recipe.num_steps)
    fall = max(0.0, (step / recipe.num_steps - recipe.warmup) / (1 - recipe.warmup))
    return min(1.0, rise) * 0.5 * (1 + math.cos(math.pi * fall))


class AdamW:
    """Decay of matrices only; gists have a learning rate of their own."""

    def __init__(self, recipe, parameters):
        self.recipe, self.parameters = recipe, parameters
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items()}

    @torch.no_grad()
    def step(self, step):
        r = self.recipe
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in self.parameters.values()))
        for name, p in self.parameters.items():
            is_gist = name == "gist_embeddings"
            lr = (r.gist_lr if is_gist else r.lr) * lr_factor(r, step)
            grad = p.grad / max(1.0, norm / r.max_norm)
            self.first[name].lerp_(grad, 1 - r.beta1)
            self.second[name].lerp_(grad.square(), 1 - r.beta2)
            mean = self.first[name] / (1 - r.beta1 ** (step + 1))
            spread = (self.second[name] / (1 - r.beta2 ** (step + 1))).sqrt()
            if p.dim() == 2 and not is_gist:
                p *= 1 - lr * r.weight_decay
            p -= lr * mean / (spread + r.epsilon)
            p.grad = None
        return norm
