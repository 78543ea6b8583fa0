"""A prepared GPT decodes as the GPT it was made of, step by step and at fixed shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_models import small_gpt
from torch import Tensor

from tats.models.gpt import GPT
from tats.sampling import TokenFilter, Window, decode, infill, sliding, spatial, whole
from tats.sampling.engines import cpu as cpu_step
from tats.sampling.engines.prepared import PreparedGPT

GREEDY = TokenFilter(temperature=0.0)
CASES: dict[str, tuple[dict[str, Any], list[Window], int]] = {
    "whole": ({}, whole(11), 1),
    "two condition tokens": ({}, whole(11), 2),
    "sliding": ({}, sliding(6, 3, 2), 1),
    "spatial": ({"vtokens_grid": (2, 3, 3), "block_size": 18}, spatial((4, 3, 3), (2, 2, 2), 1), 1),
    "grid in one go": ({"vtokens_grid": (3, 2, 2)}, whole(12), 1),
    "infill": ({"n_unmasked": 3, "n_layer": 3}, infill(7, 3, 3), 1),
}  # fmt: skip


def start(schedule: list[Window]) -> Tensor:
    """A canvas whose key frames, if there are any, are known."""
    n_tokens = max(max(w.write + w.future + w.past) for w in schedule) + 1
    canvas = torch.randint(40, (3, n_tokens))
    for window in schedule:
        canvas[:, list(window.write)] = -1
    return canvas


@pytest.fixture(params=["compiled step", "growing shapes", "fixed shapes"])
def shapes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "compiled step":
        if not cpu_step.is_built():
            pytest.skip("there was no C++ compiler")
        return
    monkeypatch.setattr("tats.sampling.engines.cpu.is_built", lambda: False)
    if request.param == "fixed shapes":
        monkeypatch.setattr("tats.sampling.engines.cuda.DEVICES", ("cpu",))
        monkeypatch.setattr("tats.sampling.engines.cuda.BUCKET", 4)


@pytest.mark.parametrize("interpolation", ["released", "trained"])
@pytest.mark.parametrize("case", CASES)
def test_it_writes_the_same_tokens(shapes: None, case: str, interpolation: str) -> None:
    sizes, schedule, n_condition = CASES[case]
    gpt: GPT = small_gpt(vocab_size=40, **sizes)
    condition = torch.randint(40, (3, n_condition))
    prepared, canvas = PreparedGPT(gpt), start(schedule)
    for token_filter in (GREEDY, TokenFilter(top_k=9, top_p=0.9), TokenFilter(top_p=0.8)):
        settings: dict[str, Any] = {
            "token_filter": token_filter,
            "seeds": [5, 6, 7],
            "interpolation": interpolation,
            "valid_tokens": (2, 39),
        }
        expected = decode(gpt, canvas, condition, schedule, **settings)
        assert torch.equal(decode(prepared, canvas, condition, schedule, **settings), expected)


@pytest.mark.parametrize("known", [[0, 1], [3], [0, 4, 5, 8], [10]])
def test_it_keeps_known_tokens_anywhere(shapes: None, known: list[int]) -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.randint(40, (2, 1))
    canvas = torch.full((2, 11), -1)
    canvas[:, known] = torch.randint(40, (2, len(known)))
    arguments: Any = (canvas, condition, whole(11))
    expected = decode(gpt, *arguments, seeds=[1, 2])
    assert torch.equal(decode(PreparedGPT(gpt), *arguments, seeds=[1, 2]), expected)
    assert torch.equal(expected[:, known], canvas[:, known])


def test_hidden_states_agree_to_float_noise(shapes: None) -> None:
    gpt = small_gpt(vocab_size=40, n_embd=48)
    prepared, tokens = PreparedGPT(gpt), torch.randint(40, (2, 8))
    states = []
    for model in (gpt, prepared):
        cache = model.new_cache(2, 8)
        parts = [
            model.forward_cached(tokens[:, a:b], torch.arange(a, b), cache)
            for a, b in ((0, 3), (3, 6), (6, 7), (7, 8))
        ]
        states.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-5)


def test_8_bits_without_the_compiled_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tats.sampling.engines.cpu.is_built", lambda: False)
    with pytest.raises(ValueError, match="C\\+\\+ compiler"):
        PreparedGPT(small_gpt(), weights="int8")


def test_releasing_frees_the_matrices_and_leaves_the_gpts_state_to_nobody(shapes: None) -> None:
    gpt = small_gpt(vocab_size=40)
    condition = torch.zeros(1, 1, dtype=torch.int64)
    canvas = torch.full((1, 11), -1)
    expected = decode(gpt, canvas, condition, whole(11), token_filter=GREEDY)
    prepared = PreparedGPT(gpt, release=True)
    matrices = [p for name, p in gpt.blocks.named_parameters() if name.endswith("weight")]
    assert sum(p.numel() for p in matrices if p.ndim == 2) == 0
    assert torch.equal(
        decode(prepared, canvas, condition, whole(11), token_filter=GREEDY), expected
    )


def test_a_step_is_kept_for_the_next_call_and_replaced_for_another_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tats.sampling.engines.cuda.DEVICES", ("cpu",))
    monkeypatch.setattr("tats.sampling.engines.cpu.is_built", lambda: False)
    prepared = PreparedGPT(small_gpt(vocab_size=40))

    def step_for(n_samples: int) -> Any:
        condition = torch.zeros(n_samples, 1, dtype=torch.int64)
        decode(
            prepared, torch.full((n_samples, 11), -1), condition, whole(11), seeds=range(n_samples)
        )
        return prepared.kept_step

    first = step_for(2)
    assert step_for(2) is first
    assert step_for(3) is not first
