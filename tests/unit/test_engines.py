"""Every engine writes the tokens of the plain one, and knows when its model has changed."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from small_models import small_gpt
from torch import Tensor

from tats.models.gpt import GPT, one_block
from tats.sampling import TokenFilter, Window, engines, fill, infill, sliding, spatial, whole
from tats.sampling.engines import Engine, engine_for, quantize_
from tats.sampling.engines import cpu as cpu_step
from tats.sampling.engines.cpu import CpuEngine
from tats.sampling.engines.cuda import CudaEngine

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


@pytest.fixture(params=[CpuEngine, Engine, CudaEngine])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    """Each engine; the GPU's takes its steps on the CPU, uncaptured."""
    if request.param is CpuEngine and not cpu_step.is_built():
        pytest.skip("there was no C++ compiler")
    monkeypatch.setattr("tats.sampling.engines.cuda.BUCKET", 4)
    return request.param


@pytest.mark.parametrize("interpolation", ["released", "trained"])
@pytest.mark.parametrize("case", CASES)
def test_it_writes_the_plain_engines_tokens(
    kind: type[Engine], case: str, interpolation: str
) -> None:
    sizes, schedule, n_condition = CASES[case]
    gpt: GPT = small_gpt(vocab_size=40, **sizes)
    condition, canvas = torch.randint(40, (3, n_condition)), start(schedule)
    for token_filter in (GREEDY, TokenFilter(top_k=9, top_p=0.9), TokenFilter(top_p=0.8)):
        settings: dict[str, Any] = {
            "token_filter": token_filter,
            "seeds": [5, 6, 7],
            "interpolation": interpolation,
            "valid_tokens": (2, 39),
        }
        expected = fill(copy.deepcopy(gpt), canvas, condition, schedule, engine=Engine, **settings)
        made = fill(gpt, canvas, condition, schedule, engine=kind, **settings)
        assert torch.equal(made, expected)


@pytest.mark.parametrize("known", [[0, 1], [3], [0, 4, 5, 8], [10]])
def test_it_keeps_known_tokens_anywhere(kind: type[Engine], known: list[int]) -> None:
    gpt, condition = small_gpt(vocab_size=40), torch.randint(40, (2, 1))
    canvas = torch.full((2, 11), -1)
    canvas[:, known] = torch.randint(40, (2, len(known)))
    arguments: Any = (gpt, canvas, condition, whole(11))
    expected = fill(*arguments, seeds=[1, 2], engine=Engine)
    assert torch.equal(fill(*arguments, seeds=[1, 2], engine=kind), expected)
    assert torch.equal(expected[:, known], canvas[:, known])


def test_the_model_stays_what_it_was(kind: type[Engine]) -> None:
    gpt, tokens = small_gpt(vocab_size=40), torch.randint(40, (2, 11))
    before = {name: tensor.clone() for name, tensor in gpt.state_dict().items()}
    identities = [id(parameter) for parameter in gpt.parameters()]
    logits = gpt(tokens)
    fill(gpt, torch.full((2, 11), -1), tokens[:, :1], whole(11), engine=kind)
    after = gpt.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [id(parameter) for parameter in gpt.parameters()] == identities
    torch.testing.assert_close(gpt(tokens), logits)
    gpt(tokens).sum().backward()
    assert all(parameter.grad is not None for parameter in gpt.parameters())


def change_by_a_step(gpt: GPT) -> None:
    optimizer = torch.optim.SGD(gpt.parameters(), lr=0.5)
    gpt(torch.randint(40, (2, 11))).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def change_by_loading(gpt: GPT) -> None:
    gpt.load_state_dict(small_gpt(vocab_size=40).state_dict())


def change_by_assigning(gpt: GPT) -> None:
    gpt.load_state_dict(small_gpt(vocab_size=40).state_dict(), assign=True)


def change_behind_the_counters(gpt: GPT) -> None:
    for parameter in gpt.parameters():
        parameter.data.copy_(torch.randn_like(parameter))


CHANGES = [change_by_a_step, change_by_loading, change_by_assigning, change_behind_the_counters]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_writes_what_it_now_would(kind: type[Engine], dtype, change) -> None:
    gpt = small_gpt(vocab_size=40).to(dtype)
    condition, canvas = torch.randint(40, (2, 1)), torch.full((2, 11), -1)
    arguments: Any = (canvas, condition, whole(11))
    first = fill(gpt, *arguments, seeds=[1, 2], engine=kind)
    change(gpt)
    gpt.to(dtype)
    made = fill(gpt, *arguments, seeds=[1, 2], engine=kind)
    fresh = copy.deepcopy(gpt)
    assert torch.equal(made, fill(fresh, *arguments, seeds=[1, 2], engine=kind))
    assert not torch.equal(made, first)


def test_an_engine_is_kept_for_the_next_call_and_ends_with_its_model(kind: type[Engine]) -> None:
    gpt = small_gpt(vocab_size=40)

    def engine_after(gpt: GPT, n_samples: int) -> Engine:
        condition = torch.zeros(n_samples, 1, dtype=torch.int64)
        canvas = torch.full((n_samples, 11), -1)
        fill(gpt, canvas, condition, whole(11), engine=kind)
        return engines._kept[gpt].engine

    first = engine_after(gpt, 2)
    assert engine_after(gpt, 2) is first
    assert engine_after(gpt, 3) is not first
    reference = weakref.ref(gpt)
    del gpt
    gc.collect()
    assert reference() is None and len(engines._kept) == 0


def test_joined_projections_are_one_product_of_the_same_numbers() -> None:
    gpt, x = small_gpt(n_embd=48), torch.randn(2, 5, 48)
    attention = gpt.blocks[0].attn
    with torch.no_grad():
        apart = attention.projections(x)
        gpt.join_projections_()
        together = attention.projections(x)
    weights = [layer.weight for layer in (attention.query, attention.key, attention.value)]
    assert one_block(weights).shape == (144, 48)
    for a, b in zip(apart, together, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    gpt.to(torch.float64)  # every weight gets memory of its own again
    assert one_block([layer.weight for layer in (attention.query, attention.key)]) is None


def test_8_bits_without_the_compiled_step_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tats.sampling.engines.cpu.is_built", lambda: False)
    with pytest.raises(ValueError, match="C\\+\\+ compiler"):
        quantize_(small_gpt())


def test_a_model_in_8_bits_still_reads_whole_sequences(kind: type[Engine]) -> None:
    if not cpu_step.is_built():
        pytest.skip("there was no C++ compiler")
    gpt, tokens = small_gpt(vocab_size=40, n_embd=64), torch.randint(40, (2, 11))
    exact = gpt(tokens)
    quantize_(gpt)
    quantize_(gpt)  # a second time changes nothing
    assert 0 < (gpt(tokens) - exact).norm() / exact.norm() < 0.05
    canvas = torch.full((2, 11), -1)
    made = fill(gpt, canvas, tokens[:, :1], whole(11), token_filter=GREEDY, engine=kind)
    expected = fill(gpt, canvas, tokens[:, :1], whole(11), token_filter=GREEDY, engine=Engine)
    assert torch.equal(made, expected)


def test_the_best_engine_is_chosen_by_device_and_what_is_built(monkeypatch) -> None:
    sizes: dict[str, Any] = {
        "batch_size": 1, "n_slots": 4, "token_filter": GREEDY, "valid_tokens": (0, 11)
    }  # fmt: skip
    if cpu_step.is_built():
        assert type(engine_for(small_gpt(), **sizes)) is CpuEngine
    assert type(engine_for(small_gpt().to(torch.float64), **sizes)) is Engine
    monkeypatch.setattr("tats.sampling.engines.cpu.is_built", lambda: False)
    assert type(engine_for(small_gpt(), **sizes)) is Engine
