"""Greedy continuations of a GGUF model by transformers, weights de-quantised to f32.

usage: greedy.py MODEL.gguf OUT.json

OUT.json is a list of {"prompt", "ids", "continuation"}. A second call with the same file and script does nothing;
calls may run at the same time.
"""

import fcntl
import hashlib
import json
import pathlib
import sys

NUM_NEW = 64
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "<|im_start|>user\nName three colours of the rainbow.<|im_end|>\n<|im_start|>assistant\n",
    "Once upon a time, in a village by the sea, there lived an old fisherman who",
    "Water boils at 100 degrees Celsius at sea level. On a high mountain, it boils",
]


def main():
    model_file, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    stamp = out.with_suffix(".version")
    version = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest() + f" {model_file.stat().st_size}"
    with open(out.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if out.exists() and stamp.exists() and stamp.read_text() == version:
            return
        out.write_text(json.dumps(continuations(model_file)))
        stamp.write_text(version)


def continuations(model_file):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"gguf_file": model_file.name}
    tokenizer = AutoTokenizer.from_pretrained(model_file.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(
        model_file.parent, **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).eval()
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        past, new, step = None, [], torch.tensor([ids])
        with torch.no_grad():
            for _ in range(NUM_NEW):
                result = model(step, past_key_values=past, use_cache=True)
                past = result.past_key_values
                step = result.logits[:, -1].argmax(-1, keepdim=True)
                new.append(step.item())
        cases.append({"prompt": prompt, "ids": ids, "continuation": new})
    return cases


main()
