"""The compiled decoding step computes what the GPT computes, for every sample alike."""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import pytest
import torch
from small_models import small_gpt
from torch import Tensor
from torch.nn import functional as F

from tats.models.gpt import GPT
from tats.randomness import draw_keys
from tats.sampling import TokenFilter, fill, whole
from tats.sampling.engines import Engine, quantize_
from tats.sampling.engines import cpu as cpu_step
from tats.sampling.engines.cpu import CpuEngine, StoredMatrix
from tats.sampling.slots import SlotPlan

needs_the_step = pytest.mark.skipif(not cpu_step.is_built(), reason="there was no C++ compiler")


def trained_gpt(**sizes: Any) -> GPT:
    """A GPT whose activations are as small as a trained one's."""
    gpt = small_gpt(vocab_size=40, block_size=20, **sizes)
    for parameter in gpt.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return gpt


@torch.no_grad()
def hidden_states(
    kind: type[Engine], gpt: GPT, tokens: Tensor, mask: Tensor | None = None, n_read: int = 3
) -> Tensor:
    """Read some tokens at once and the others one by one; (B, S - n_read, D) of the latter."""
    n_samples, n_tokens = tokens.shape
    sizes: dict[str, Any] = {"token_filter": TokenFilter(), "valid_tokens": (0, gpt.vocab_size)}
    engine = kind(gpt, batch_size=n_samples, n_slots=n_tokens, **sizes)
    plan = SlotPlan((), n_read, n_read - 1, torch.arange(n_tokens), mask, None)
    engine.begin(plan, tokens[:, :n_read], draw_keys(range(n_samples), 1))
    return torch.stack([engine._feed(token) for token in tokens.T[n_read:]], dim=1)


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
@pytest.mark.skipif("CI" not in os.environ, reason="installed by hand, perhaps without it")
def test_installing_with_a_compiler_builds_the_step() -> None:
    assert cpu_step.is_built()


@needs_the_step
@pytest.mark.parametrize("n_samples", [1, 2, 3, 5])
@pytest.mark.parametrize("width, n_head", [(16, 2), (20, 2), (72, 1), (144, 2), (6, 3)])
def test_hidden_states_are_the_gpts(width: int, n_head: int, n_samples: int) -> None:
    gpt = trained_gpt(n_embd=width, n_head=n_head)
    tokens = torch.randint(40, (n_samples, 9))
    expected = hidden_states(Engine, gpt, tokens)
    torch.testing.assert_close(
        hidden_states(CpuEngine, gpt, tokens), expected, rtol=1e-5, atol=1e-5
    )


@needs_the_step
def test_only_visible_slots_are_looked_at() -> None:
    gpt = trained_gpt(n_embd=16)
    tokens = torch.randint(40, (2, 9))
    mask = torch.rand(9, 9) < 0.5
    mask |= torch.eye(9, dtype=torch.bool)
    expected = hidden_states(Engine, gpt, tokens, mask)
    torch.testing.assert_close(
        hidden_states(CpuEngine, gpt, tokens, mask), expected, rtol=1e-5, atol=1e-5
    )


@needs_the_step
def test_large_activations_overflow_nowhere() -> None:
    gpt = trained_gpt(n_embd=32)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.mul_(30)
    tokens = torch.randint(40, (2, 9))
    torch.testing.assert_close(
        hidden_states(CpuEngine, gpt, tokens),
        hidden_states(Engine, gpt, tokens),
        rtol=1e-4,
        atol=1e-3,
    )


@needs_the_step
def test_bfloat16_is_how_numbers_are_stored_not_how_they_are_added_up() -> None:
    gpt = trained_gpt(n_embd=64)
    tokens = torch.randint(40, (2, 9))
    stored = copy.deepcopy(gpt).bfloat16()
    exact = hidden_states(Engine, copy.deepcopy(stored).float(), tokens)
    got = hidden_states(CpuEngine, stored, tokens)
    assert got.dtype == torch.float32 and stored.new_cache(1, 1).keys.dtype == torch.bfloat16
    error = (got - exact).norm() / exact.norm()
    assert 0 < error < 0.003  # keys and values are rounded, by 2^-9 at most


@needs_the_step
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bit_weights_change_hidden_states_by_percents(dtype: torch.dtype) -> None:
    gpt = trained_gpt(n_embd=64)
    tokens = torch.randint(40, (2, 9))
    rounded = copy.deepcopy(gpt).to(dtype)
    quantize_(rounded)
    exact = hidden_states(Engine, gpt, tokens)
    got = hidden_states(CpuEngine, rounded, tokens)
    assert 0 < (got - exact).norm() / exact.norm() < 0.03


@needs_the_step
@pytest.mark.parametrize("weights", ["full", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_samples_do_not_change_each_other_by_a_bit(dtype: torch.dtype, weights: Any) -> None:
    gpt = trained_gpt(n_embd=40).to(dtype)
    if weights == "int8":
        quantize_(gpt)
    condition, canvas = torch.randint(40, (7, 1)), torch.full((7, 19), -1)
    together = fill(gpt, canvas, condition, whole(19), seeds=range(7))
    for i in range(7):
        alone = fill(gpt, canvas[:1], condition[i : i + 1], whole(19), seeds=[i])
        assert torch.equal(alone[0], together[i])


@needs_the_step
def test_several_threads_compute_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt = trained_gpt(n_embd=72, n_head=2)
    tokens, results = torch.randint(40, (5, 19)), []
    for n_threads in (1, 4, 4, 4):
        monkeypatch.setattr(cpu_step, "_n_threads", lambda _, n=n_threads: n)
        results.append(hidden_states(CpuEngine, gpt, tokens))
    assert all(torch.equal(result, results[0]) for result in results[1:])


@needs_the_step
@pytest.mark.parametrize("n_out", [1, 2, 7])
@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 6])
def test_few_rows_are_multiplied_as_many_are(n_rows: int, n_out: int) -> None:
    matrix = StoredMatrix(torch.randn(n_out, 21), torch.rand(n_out), torch.randn(n_out))
    x = torch.randn(n_rows, 21)
    expected = F.linear(x, matrix.weight * matrix.scale[:, None], matrix.bias)
    torch.testing.assert_close(matrix.few_rows(x), expected, rtol=1e-5, atol=1e-5)


def test_a_build_of_another_version_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not cpu_step.is_built():
        pytest.skip("there was no C++ compiler")
    monkeypatch.setattr(cpu_step, "VERSION", cpu_step.VERSION + 1)
    assert cpu_step._library.__wrapped__() is None
    assert "another version" in caplog.text
