"""The benchmarks of training steps run, compare with the published way and print one JSON line."""

from __future__ import annotations

import json

import pytest
import torch
from load_script import load_script

from tats.models.codebook import Codebook
from tats.models.transformer import Net2NetTransformer

TINY = ["--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--latent_shape", "2", "4", "4",
        "--batch_size", "2", "--n_codes", "32", "--n_classes", "5", "--matrix", "32",
        "--n_repeats", "1", "--device", "cpu", "--no_record"]  # fmt: skip


def test_transformer_steps_are_timed_and_weighed_beside_the_published_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_script("benchmarks/bench_transformer_step.py").main(TINY)
    result = json.loads(capsys.readouterr().out)
    assert result["baseline"]["ratio"] == 1
    for name in ("baseline", "32", "bf16"):
        assert result[name]["seconds"][0] > 0 and result[name]["mfu"] > 0
        assert result[name]["peak_bytes"] >= 0


def test_a_run_of_no_steps_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load_script("benchmarks/bench_transformer_step.py").main([*TINY, "--n_repeats", "0"])
    assert stop.value.code == 2
    assert "--n_repeats got 0; expected at least 1" in capsys.readouterr().err


def test_the_published_step_is_the_models_own_in_values_and_gradients() -> None:
    published = load_script("benchmarks/published_training.py")
    flags = {"vtokens": True, "n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32,
             "first_stage_vocab_size": 32, "class_cond_dim": 5, "sequence_length": 2,
             "resolution": 4}  # fmt: skip
    model = Net2NetTransformer(flags)
    video, label = torch.randint(32, (3, 2, 4, 4)), torch.tensor([0, 4, 2])
    parameters = list(model.transformer.parameters())
    expected = published.step_as_published(model.transformer, label[:, None], video.flatten(1) + 5)
    want = torch.autograd.grad(expected[0], parameters)
    got = model.shared_step({"video": video, "label": label}, 0)
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.stack(got[1:]), torch.stack(expected[1:]))
    for ours, theirs in zip(torch.autograd.grad(got[0], parameters), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_codes_are_searched_beside_the_published_way(capsys: pytest.CaptureFixture[str]) -> None:
    bench = load_script("benchmarks/bench_codebook.py")
    sizes = ["--n_rows", "100", "--n_codes", "32", "--embedding_dim", "8", "--n_repeats", "1"]
    bench.main([*sizes, "--device", "cpu", "--no_record"])
    result = json.loads(capsys.readouterr().out)
    assert result["baseline"]["ratio"] == 1
    assert result["ours"]["seconds"][0] > 0
    assert result["equal_codes"] == 1
    codebook = Codebook(n_codes=32, embedding_dim=8)
    rows = torch.randn(100, 8)
    for got, expected in zip(
        bench.ours(codebook, rows), bench.as_published(codebook.embeddings, rows), strict=True
    ):
        torch.testing.assert_close(got, expected)
