"""gsa info."""

import pytest


def test_describes_model_and_memory(gsa, model):
    info = gsa("info", "--model", model, "--context", "100000", "--dtype", "f32", "--json").json()
    assert (info["family"], info["layers"], info["hidden"], info["trained_window"]) == ("llama", 2, 64, 256)
    memory = info["memory"]
    per_token = 2 * info["layers"] * info["kv_heads"] * info["head_dim"] * 4
    assert memory["raw_kv_bytes_per_1k_tokens"] == 1000 * per_token
    assert memory["gist_kv_bytes_per_1k_tokens"] == pytest.approx(1000 * per_token / 16)
    assert memory["total_bytes"] == pytest.approx(memory["weight_bytes"] + memory["context_kv_bytes"])
    assert info["adapter"] is None
    per_token_with_gists = per_token * 17 / 16
    assert memory["longest_context_tokens"] == pytest.approx(memory["available_bytes"] / per_token_with_gists, abs=1)


def test_says_what_does_not_fit(gsa, model):
    result = gsa("info", "--model", model, "--context", "1000000000")
    assert result.code == 0 and "longest context" in result.out and "do not fit" in result.out
    assert "do not fit" not in gsa("info", "--model", model, "--context", "1000").out


def test_two_levels_cost_more_than_one(gsa, model):
    def gists(chunks):
        return gsa("info", "--model", model, "--chunks", chunks, "--json").json()["memory"]["gist_kv_bytes_per_1k_tokens"]

    assert gists("4-4") == pytest.approx(gists("4") + gists("16"))


def test_keys_that_chunks_are_chosen_by_are_in_the_plan(gsa, model, make_adapter, tmp_path):
    plain = gsa("info", "--model", model, "--chunks", "8-4", "--json").json()["memory"]
    assert plain["chunk_key_bytes_per_1k_tokens"] == 0
    adapter = make_adapter(tmp_path / "both.safetensors", model, policy_keys="route=both")
    options = ["--model", model, "--chunks", "8-4", "--adapter", adapter]
    memory = gsa("info", *options, "--json").json()["memory"]
    assert memory["chunk_key_bytes_per_1k_tokens"] == pytest.approx(memory["raw_kv_bytes_per_1k_tokens"] / 2 / 8)
    parts = sum(memory[f"{part}_bytes_per_1k_tokens"] for part in ["raw_kv", "gist_kv", "chunk_key"])
    assert memory["context_kv_bytes"] == pytest.approx(parts / 1000 * memory["context_tokens"])
    assert "keys of chunks" in gsa("info", *options).out


def test_adapter_is_described(gsa, model, make_adapter, tmp_path):
    adapter = make_adapter(tmp_path / "mine.safetensors", model, chunk_sizes="16,4-4")
    info = gsa("info", "--model", model, "--adapter", adapter, "--json").json()
    assert info["adapter"]["name"] == "mine"
    assert info["adapter"]["chunk_sizes"] == ["16", "4-4"]
    text = gsa("info", "--model", model, "--adapter", adapter)
    assert text.code == 0 and "16, 4-4" in text.out


def test_rounding_of_an_adapter_in_quantised_weights_is_told(gsa, models, make_adapter, tmp_path):
    quantised = models / "llama-q8" / "model.gguf"
    adapter = make_adapter(tmp_path / "mine.safetensors", quantised, rank=2)
    options = ["info", "--model", quantised, "--adapter", adapter]
    rounding = gsa(*options, "--dtype", "file", "--json").json()["adapter"]["rounding"]
    assert 0 < rounding["of_weights"] < 0.01  # of 8 bits
    assert 0 < rounding["of_updates"] < 0.1  # the updates are as large as the weights
    assert "rounds them by" in gsa(*options, "--dtype", "file").out
    assert "rounding" not in gsa(*options, "--dtype", "f32", "--json").json()["adapter"]


def test_quantisations_of_one_checkpoint_share_a_fingerprint(gsa, models):
    def fingerprint(name):
        return gsa("info", "--model", models / name / "model.gguf", "--json").json()["fingerprint"]

    assert fingerprint("llama-f32") == fingerprint("llama-q8") != fingerprint("qwen2-f16")


@pytest.mark.parametrize("chunks", ["0", "x", "4-"])
def test_bad_chunks(gsa, model, chunks):
    result = gsa("info", "--model", model, "--chunks", chunks)
    assert result.code == 2 and chunks in result.error_line()
