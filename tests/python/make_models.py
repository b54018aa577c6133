"""Makes the small random models of the tests and what transformers computes with them.

usage: make_models.py OUT_DIR

Every folder OUT_DIR/<name>/ then holds a model (Hugging Face files or model.gguf) and expected.safetensors with
  prompt  [T] int64, random ids
  logits  [T, vocab] f32, from transformers
A second call with the same version of this script does nothing; calls may run at the same time.
"""

import fcntl
import hashlib
import pathlib
import shutil
import sys

WINDOW = 256
VOCAB = 320  # some rows more than the tokenizer has tokens
PROMPT_LEN = 150

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def shapes(**changes):
    """Keyword arguments that all configurations share."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": WINDOW,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return sizes | changes


def variants():
    """name -> (configuration, file form). Forms: hf, sharded, old_rope, F32, F16, Q8_0."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    gqa = {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 96, "head_dim": 24}
    llama = LlamaConfig(**shapes())
    llama_gqa = LlamaConfig(**shapes(**gqa, rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True))
    qwen2 = Qwen2Config(**shapes(num_key_value_heads=2, tie_word_embeddings=True))
    qwen3 = Qwen3Config(**shapes(num_key_value_heads=2, head_dim=32))
    return {
        "llama": (llama, "hf"),
        "llama-gqa": (llama_gqa, "hf"),
        "llama-linear": (LlamaConfig(**shapes(rope_parameters=LINEAR_ROPE)), "hf"),
        "llama-yarn": (LlamaConfig(**shapes(rope_parameters=YARN_ROPE)), "hf"),
        "llama-bias": (LlamaConfig(**shapes(attention_bias=True)), "hf"),
        "llama-old-rope": (LlamaConfig(**shapes(rope_parameters=LLAMA3_ROPE)), "old_rope"),
        "qwen2": (qwen2, "hf"),
        "qwen2-yarn": (Qwen2Config(**shapes(rope_parameters=YARN_ROPE)), "hf"),
        "qwen3": (qwen3, "sharded"),
        "llama-f32": (llama, "F32"),
        "llama-gqa-f16": (llama_gqa, "F16"),
        "llama-q8": (llama, "Q8_0"),
        "llama-linear-f32": (LlamaConfig(**shapes(rope_parameters=LINEAR_ROPE)), "F32"),
        "llama-bias-f32": (LlamaConfig(**shapes(attention_bias=True)), "F32"),
        "qwen2-f16": (qwen2, "F16"),
        "qwen2-yarn-f32": (Qwen2Config(**shapes(rope_parameters=YARN_ROPE)), "F32"),
        "qwen3-f32": (qwen3, "F32"),
        "qwen3-q8": (qwen3, "Q8_0"),
    }


def make_tokenizer():
    """Byte-level BPE with the pre-tokenizer of Qwen2 and a few merges."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                behavior="isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and the cat " * 4], trainer)
    return tokenizer


def save_tokenizer(tokenizer, folder):
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHATML
    fast.save_pretrained(folder)


def make_model(config):
    """Random weights, large enough that every part of the model shows in the logits."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif "embed_tokens" in name or name.endswith("bias"):
                parameter.normal_(0, 0.5)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5 * 1.5)
    return model


def gguf_name(name):
    """Hugging Face name -> GGUF name."""
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }
    stem, suffix = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        layer, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{layer}.{parts[part]}.{suffix}"
    return f"{parts[stem]}.{suffix}"


def permute(rows, num_heads):
    """Row order of llama GGUF files, as llama.cpp's converter makes it."""
    return rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(config):
    """Divisors of the frequencies that llama3 scaling amounts to."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    dim = config.head_dim
    plain = 1.0 / (config.rope_parameters["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    return (plain / scaled).numpy()


def save_gguf(model, tokenizer, kind, path):
    """Writes the model in one type; the matrices of `model` become what the file holds after de-quantising."""
    import gguf
    import json
    import numpy as np
    import torch

    config = model.config
    quant = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, config.model_type)
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    if head_dim * heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config).astype(np.float32))
    elif rope["rope_type"] != "default":
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])

    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    tokens += [f"[PAD{i}]" for i in range(len(tokens), config.vocab_size)]  # as the converters fill up
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    types = [gguf.TokenType.UNUSED if t.startswith("[PAD") else kinds[t in special] for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_chat_template(CHATML)

    for name, parameter in model.named_parameters():
        data = parameter.detach().numpy()
        stored = quant if data.ndim == 2 else gguf.GGMLQuantizationType.F32
        kept = gguf.quants.dequantize(gguf.quants.quantize(data, stored), stored)
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(kept.reshape(data.shape)))
        if config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
            data = permute(data, heads if ".q_proj." in name else kv_heads)
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(data, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def use_old_rope_keys(folder):
    """Rewrites config.json in the words of transformers 4."""
    import json

    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    path.write_text(json.dumps(config))


def save_expected(model, path):
    import torch
    from safetensors.torch import save_file

    prompt = torch.randint(3, VOCAB, (PROMPT_LEN,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(prompt[None], use_cache=False).logits[0]
    save_file({"prompt": prompt, "logits": logits.contiguous()}, path)


def save_lora(config, out):
    """Random updates of every projection of the model `llama`, and the logits with the updates merged."""
    import torch
    from safetensors.torch import save_file

    model = make_model(config)
    generator = torch.Generator().manual_seed(3)
    rank, scale = 4, 0.5
    factors = {}
    with torch.no_grad():
        for name, module in model.named_modules():
            if not name.endswith("_proj"):
                continue
            a = torch.randn(rank, module.in_features, generator=generator) * module.in_features**-0.5
            b = torch.randn(module.out_features, rank, generator=generator) * rank**-0.5
            module.weight += scale * b @ a
            layer, target = name.split(".")[2], name.split(".")[-1]
            factors[f"layers.{layer}.{target}.lora_A"] = a
            factors[f"layers.{layer}.{target}.lora_B"] = b.contiguous()
    save_file(factors, out / "lora.safetensors")
    save_expected(model, out / "lora-expected.safetensors")


def make_all(out):
    tokenizer = make_tokenizer()
    configs = variants()
    for name, (config, form) in configs.items():
        folder = out / name
        folder.mkdir(parents=True)
        model = make_model(config)
        if form in ("F32", "F16", "Q8_0"):
            save_gguf(model, tokenizer, form, folder / "model.gguf")
        else:
            save_tokenizer(tokenizer, folder)
            model.save_pretrained(folder, max_shard_size="100KB" if form == "sharded" else "1GB")
            if form == "old_rope":
                use_old_rope_keys(folder)
        save_expected(model, folder / "expected.safetensors")
    save_lora(configs["llama"][0], out)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
    with open(out / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = out / "version"
        if stamp.exists() and stamp.read_text() == version:
            return
        for folder in out.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)
        make_all(out)
        stamp.write_text(version)


main()
