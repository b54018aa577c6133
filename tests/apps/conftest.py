"""Runs the real program on small random models."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = os.environ["GSA_PROGRAM"]
PYTHON_DIR = pathlib.Path(__file__).parent.parent / "python"
WINDOW = 256  # of the small models, see make_models.py
FOX = "The quick brown fox jumps over the lazy dog and the cat. "


class Result:
    def __init__(self, done):
        self.code = done.returncode
        self.out = (done.stdout or b"").decode()  # must be UTF-8
        self.err = done.stderr.decode()

    def json(self):
        """The one JSON object that standard output holds."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def error_line(self):
        """The message of a run that failed: one line, the last of standard error."""
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("gsa: error: ")]
        assert len(errors) == 1 and lines[-1] == errors[0], self.err
        return errors[0].removeprefix("gsa: error: ")


@pytest.fixture(scope="session")
def gsa():
    def run(*args, stdin=b"", stdout=subprocess.PIPE, env=None, timeout=120, **kwargs):
        environment = {**os.environ, **(env or {})}
        command = [PROGRAM, *map(str, args)]
        done = subprocess.run(command, input=stdin, stdout=stdout, stderr=subprocess.PIPE, env=environment,
                              timeout=timeout, **kwargs)
        return Result(done)

    return run


@pytest.fixture(scope="session")
def models():
    folder = pathlib.Path(os.environ["GSA_TEST_MODELS"])
    subprocess.run([sys.executable, PYTHON_DIR / "make_models.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def model(models):
    return models / "llama-f32" / "model.gguf"


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text(FOX * 6)
    return path


@pytest.fixture(scope="session")
def make_adapter(gsa):
    """Writes an adapter with random gist embeddings for a model, and updates of o_proj if it has a rank."""

    def make(path, model, chunk_sizes="16", fingerprint=None, rank=0, policy_keys=""):
        import torch
        from safetensors.torch import save_file

        info = gsa("info", "--model", model, "--json").json()
        metadata = {
            "format": "gsa-adapter",
            "format_version": "1",
            "base_fingerprint": fingerprint or info["fingerprint"],
            "chunk_sizes": chunk_sizes,
            "lora_rank": str(rank),
            "lora_alpha": str(rank),
            "lora_targets": "o_proj" if rank else "",
            "policy_keys": policy_keys,
            "recipe": "random",
        }
        generator = torch.Generator().manual_seed(5)
        shapes = {"gist_embeddings": (1, info["hidden"])}
        for layer in range(info["layers"] if rank else 0):
            shapes[f"layers.{layer}.o_proj.lora_A"] = (rank, info["heads"] * info["head_dim"])
            shapes[f"layers.{layer}.o_proj.lora_B"] = (info["hidden"], rank)
        save_file({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, path, metadata)
        return path

    return make
