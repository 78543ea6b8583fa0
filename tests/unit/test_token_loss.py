"""The chunked loss is the whole one: values, gradients, accuracies, in every format."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_transformer
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tats.models import token_loss
from tats.models.token_loss import hits, score_tokens

N, D, V = 50, 16, 37


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_loss, "LOGITS_PER_CHUNK", 12 * V)  # 5 chunks, the last of 2 tokens


def tokens(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator, dtype=torch.float64).to(dtype)
    head = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype)
    return (
        hidden.requires_grad_(),
        head.requires_grad_(),
        torch.randint(V, (N,), generator=generator),
    )


def whole_loss(hidden: Tensor, head: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ head.t()).float(), target)


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def test_loss_and_gradients_are_those_of_whole_logits() -> None:
    hidden, head, target = tokens()
    expected = whole_loss(hidden, head, target)
    gradients = torch.autograd.grad(3 * expected, (hidden, head))  # a loss may be weighted
    loss = score_tokens(hidden, head, target).loss
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for got, want in zip(torch.autograd.grad(3 * loss, (hidden, head)), gradients, strict=True):
        assert relative(got, want) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cast_models_gradients_are_as_close_to_exact_ones_as_those_of_whole_logits(
    dtype: torch.dtype,
) -> None:
    hidden, head, target = tokens(dtype)
    exact = [x.detach().double().requires_grad_() for x in (hidden, head)]
    want = torch.autograd.grad(F.cross_entropy(exact[0] @ exact[1].t(), target), exact)
    whole = torch.autograd.grad(whole_loss(hidden, head, target), (hidden, head))
    loss = score_tokens(hidden, head, target).loss
    assert loss.dtype == torch.float32
    for got, usual, best in zip(
        torch.autograd.grad(loss, (hidden, head)), whole, want, strict=True
    ):
        assert got.dtype == dtype
        assert relative(got, best) <= max(1.2 * relative(usual, best), 1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_products_are_half_precision_and_the_loss_is_not(
    dtype: torch.dtype,
) -> None:
    hidden, head, target = tokens()
    with torch.autocast("cpu", dtype):
        expected = F.cross_entropy(F.linear(hidden, head).float(), target)
        loss = score_tokens(hidden, head, target).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert loss != whole_loss(hidden, head, target)  # logits were rounded
    usual = torch.autograd.grad(expected, (hidden, head))
    for got, want in zip(torch.autograd.grad(loss, (hidden, head)), usual, strict=True):
        assert got.dtype == torch.float32
        assert relative(got, want) < 1e-2


def test_errors_of_many_tokens_do_not_vanish_in_half_precision() -> None:
    """A mean over n tokens divides each one's error by n, below what float16 can tell from 0."""
    hidden, head, _ = tokens(torch.float16)
    n, scale = 2**16, 2.0**16
    many = hidden.detach()[:1].expand(n, D).contiguous().requires_grad_()
    target = torch.zeros(n, dtype=torch.int64)
    loss = score_tokens(many, head, target).loss * scale  # as a scaler of gradients does
    (got,) = torch.autograd.grad(loss, many)
    row = many.detach()[:1].double().requires_grad_()
    (want,) = torch.autograd.grad(whole_loss(row, head.detach().double(), target[:1]), row)
    assert relative(got[:1].double() / scale * n, want) < 1e-3  # a rounding of float16


def test_logits_are_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, target = tokens()
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape[-1:] == (V,):
                largest = max(largest, out.numel())
            return out

    with Watch():
        score_tokens(hidden, head, target).loss.backward()
    assert 0 < largest <= 2 * 12 * V  # logits and scratch of a chunk


def test_without_gradients_nothing_is_kept_for_them() -> None:
    hidden, head, target = tokens()
    expected = score_tokens(hidden, head, target)
    with torch.no_grad():
        scored = score_tokens(hidden, head, target)
    assert not scored.loss.requires_grad
    assert scored == expected


def test_hits_are_those_of_a_sort() -> None:
    hidden, head, _ = tokens()
    logits = (hidden @ head.t()).detach()
    target = logits.topk(9, dim=1).indices[torch.arange(N), torch.arange(N) % 9]  # ranks 1 to 9
    likeliest = logits.topk(5, dim=1).indices
    for k, got in zip((1, 5), hits(logits, target, top_k=(1, 5)), strict=True):
        assert got == (likeliest[:, :k] == target[:, None]).sum()


def test_classes_that_are_equally_likely_share_the_hit() -> None:
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 0.0]])
    top1, top2 = hits(logits, torch.tensor([3, 2]), top_k=(1, 2))
    assert (top1, top2) == (0.25, 0.5 + 0.5)


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_a_number_hits_nothing(place: int) -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    logits[0, place] = torch.nan
    assert hits(logits, torch.tensor([place]), top_k=(1,)) == [0.0]
    logits.fill_(torch.nan)
    assert hits(logits, torch.tensor([place]), top_k=(1, 2)) == [0.0, 0.0]


def test_a_loss_that_is_not_a_number_says_so() -> None:
    hidden, head, target = tokens()
    with torch.no_grad():
        hidden[17, 3] = torch.nan
    assert torch.isnan(score_tokens(hidden, head, target).loss)


def test_the_models_step_has_the_gradients_of_its_own_logits() -> None:
    model = tiny_transformer(class_cond_dim=5).train()
    batch = {"video": torch.rand(2, 3, 16, 16, 16) - 0.5, "label": torch.tensor([1, 4])}
    logits, target = model(batch["video"], batch["label"])
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten())
    parameters = list(model.transformer.parameters())
    want = torch.autograd.grad(expected, parameters)
    loss, _, _ = model.shared_step(batch, 0)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for got, usual in zip(torch.autograd.grad(loss, parameters), want, strict=True):
        torch.testing.assert_close(got, usual, rtol=1e-4, atol=1e-6)
