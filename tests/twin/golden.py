"""Golden runs of the twin for the tests of training.

usage: golden.py MODELS_DIR OUT_DIR

MODELS_DIR is what tests/python/make_models.py made. Writes OUT_DIR/<model>-<trained>-<stage>-<gist input>.safetensors,
each with
  step.S.row.R.{pieces, piece_lens, suffixes, suffix_lens, num_prompts}  the rows, int64
  start.NAME       LoRA and gist embeddings to start from
  logits, grad.*   of the first step: logits of the rows that predict, gradients of all parameters
  end.NAME         parameters after all steps
  losses, norms    of every step
and metadata: the model, policies of the rows of a step, and the recipe. A second call with the same scripts does nothing.
"""

import dataclasses
import fcntl
import hashlib
import pathlib
import random
import sys

CASES = [
    ("llama-gqa", "lora", "cpt", "row"),
    ("llama-gqa", "lora", "ft", "row"),
    ("llama-gqa", "full", "ft", "row"),
    ("qwen3", "full", "cpt", "row"),
    ("qwen3", "lora", "ft", "row"),
    ("llama-gqa", "lora", "cpt", "content"),
    ("qwen3", "full", "ft", "content"),
]
POLICIES = {
    "cpt": ["gsa@8", "gsa@4-4", "gsa@16", "full"],
    "ft": ["gsa@8:ratio=2", "gsa@4-4:ratio=4", "gsa@16", "gsa@4-4:ratio=2:gists=all"],
}
RANK, ALPHA = 4, 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def word_starts_of(folder, twin):
    """A bit per token id whose text is a whole string; others are left out of the rows."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = {token_id: tokenizer.decode([token_id]) for token_id in sorted(tokenizer.get_vocab().values())}
    return {token_id: twin.starts_word(text) for token_id, text in texts.items() if text and "\ufffd" not in text}


def random_tokens(rng, word_starts, length):
    """Words of one to nine tokens."""
    starts = [token_id for token_id, is_start in word_starts.items() if is_start]
    others = [token_id for token_id, is_start in word_starts.items() if not is_start]
    tokens = []
    while len(tokens) < length:
        tokens += [rng.choice(starts)] + rng.choices(others, k=rng.randrange(9))
    return tokens[:length]


def make_rows(rng, stage, word_starts, twin):
    rows = []
    for number, policy in enumerate(POLICIES[stage]):
        num_pieces = 1 + number % 3
        lengths = [rng.randrange(20, 100 // num_pieces + 20) for _ in range(num_pieces)]
        suffixes = []
        if stage == "ft":
            for _ in range(rng.randrange(1, 4)):
                num_prompt = rng.randrange(1, 6)
                suffixes.append((random_tokens(rng, word_starts, num_prompt + rng.randrange(1, 5)), num_prompt))
        pieces = [random_tokens(rng, word_starts, length) for length in lengths]
        rows.append(twin.Row(policy, pieces, suffixes))
    return rows


def save_rows(tensors, step, rows):
    import torch

    def add(number, name, values):
        tensors[f"step.{step}.row.{number}.{name}"] = torch.tensor(values, dtype=torch.int64)

    for number, row in enumerate(rows):
        add(number, "pieces", sum(row.pieces, []))
        add(number, "piece_lens", [len(piece) for piece in row.pieces])
        add(number, "suffixes", sum((tokens for tokens, _ in row.suffixes), []))
        add(number, "suffix_lens", [len(tokens) for tokens, _ in row.suffixes])
        add(number, "num_prompts", [num_prompt for _, num_prompt in row.suffixes])


def new_parameters(config, weights, trained, generator):
    """What an adapter brings to start from; no part of it is zero, so that every gradient shows."""
    import torch

    def normal(shape, spread):
        return (torch.randn(shape, generator=generator) * spread).double()

    parameters = {"gist_embeddings": normal((2, config.hidden_size), 0.5)}
    if trained == "lora":
        for name, weight in weights.items():
            target = name.split(".")[-2]
            if target in TARGETS:
                prefix = f"layers.{name.split('.')[2]}.{target}.lora_"
                parameters[prefix + "A"] = normal((RANK, weight.shape[1]), weight.shape[1] ** -0.5)
                parameters[prefix + "B"] = normal((weight.shape[0], RANK), 0.3 * RANK**-0.5)
    return parameters


def packed(values, config):
    """Tensors under the names of the C++ side, which stacks q, k, v and gate, up."""
    import torch

    if not any(name.startswith("model.") for name in values):
        return values
    result = {"gist_embeddings": values["gist_embeddings"], "embedding": values["model.embed_tokens.weight"]}
    for layer in range(config.num_hidden_layers):
        old, new = f"model.layers.{layer}.", f"layers.{layer}."
        result[new + "attention_norm"] = values[old + "input_layernorm.weight"]
        result[new + "mlp_norm"] = values[old + "post_attention_layernorm.weight"]
        attention, mlp = old + "self_attn.", old + "mlp."
        result[new + "qkv.weight"] = torch.cat([values[attention + f"{p}_proj.weight"] for p in "qkv"])
        result[new + "o.weight"] = values[attention + "o_proj.weight"]
        result[new + "gate_up.weight"] = torch.cat([values[mlp + "gate_proj.weight"], values[mlp + "up_proj.weight"]])
        result[new + "down.weight"] = values[mlp + "down_proj.weight"]
        for norm in ("q_norm", "k_norm"):
            if attention + norm + ".weight" in values:
                result[new + norm] = values[attention + norm + ".weight"]
    result["final_norm"] = values["model.norm.weight"]
    if "lm_head.weight" in values:
        result["output.weight"] = values["lm_head.weight"]
    return result


def load_model(folder):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = model.config
    rope = config.rope_parameters
    inv_freq = rope["rope_theta"] ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    if rope["rope_type"] != "default":
        inv_freq, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    return config, inv_freq.double(), weights


def run_case(models, out, case):
    import torch
    from safetensors.torch import save_file
    import twin

    model_name, trained, stage, gist_input = case
    config, inv_freq, weights = load_model(models / model_name)
    word_starts = word_starts_of(models / model_name, twin)
    generator = torch.Generator().manual_seed(11)
    rng = random.Random(5)
    recipe = twin.Recipe()
    parameters = new_parameters(config, weights, trained, generator)
    tensors = {"start." + name: p.clone() for name, p in parameters.items()}
    if trained == "full":
        parameters |= weights
    model = twin.Twin(config, inv_freq, weights | parameters, ALPHA / RANK, gist_input)
    for p in parameters.values():
        p.requires_grad_(True)
    optimizer = twin.AdamW(recipe, parameters)
    losses, norms = [], []
    for step in range(recipe.num_steps):
        rows = make_rows(rng, stage, word_starts, twin)
        save_rows(tensors, step, rows)
        loss, logits = twin.batch_loss(model, rows, word_starts)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            tensors["logits"] = logits.detach()
            grads = {name: p.grad.clone() for name, p in parameters.items()}
            tensors |= {"grad." + name: grad for name, grad in packed(grads, config).items()}
        norms.append(optimizer.step(step))
    ends = {name: p.detach() for name, p in parameters.items()}
    tensors |= {"end." + name: p for name, p in packed(ends, config).items()}
    tensors |= {"losses": torch.tensor(losses), "norms": torch.tensor(norms)}
    tensors = {
        name: (t.float() if t.is_floating_point() else t).contiguous().clone() for name, t in tensors.items()
    }
    metadata = {key: str(value) for key, value in dataclasses.asdict(recipe).items()}
    metadata |= {"model": model_name, "trained": trained, "gist_input": gist_input, "rank": str(RANK), "alpha": str(ALPHA)}
    metadata["policies"] = " ".join(POLICIES[stage])
    save_file(tensors, out / ("-".join(case) + ".safetensors"), metadata)


def main():
    models, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    scripts = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256((models / "version").read_bytes())
    for script in scripts:
        digest.update(script.read_bytes())
    with open(out / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = out / "version"
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        import torch

        torch.set_num_threads(1)
        for case in CASES:
            run_case(models, out, case)
        stamp.write_text(digest.hexdigest())


main()
