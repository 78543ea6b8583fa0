"""Cross-entropy and accuracies of predicted tokens, whose logits are never whole in memory.

4096 tokens over a vocabulary of 16,485 make 270 MB of logits in float32, and the loss needs them
several times over. They are made here for some tokens at a time, and what the backward pass will
want of them, the gradients of the hidden states and of the matrix, is taken while they are there.
So no logit is made twice, and none is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tats.models.precision import without_autocast

LOGITS_PER_CHUNK = 2**23  # 32 MiB in float32
TOP_K = (1, 5)


class Score(NamedTuple):
    """How well tokens were predicted."""

    loss: Float[Tensor, ""]  # mean cross-entropy in nats, float32
    acc1: Float[Tensor, ""]  # top-1 accuracy in percent
    acc5: Float[Tensor, ""]  # top-5 accuracy in percent


def score_tokens(
    hidden: Float[Tensor, "n D"], head: Float[Tensor, "V D"], target: Int[Tensor, " n"]
) -> Score:
    """Score the tokens that ``hidden @ head.T`` predicts.

    Logits are made in the format of a surrounding autocast, or else in that of ``hidden``, and
    scored in float32.

    Args:
        hidden: what the logits are made of.
        head: the matrix that makes them.
        target: the tokens to predict, each in [0, V).
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    needed = torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    return Score(*_TokenScore.apply(hidden, head, target, dtype, needed))


def hits(
    logits: Float[Tensor, "n V"],
    target: Int[Tensor, " n"],
    *,
    top_k: Sequence[int],
    scratch: Float[Tensor, "n V"] | None = None,
) -> list[Float[Tensor, ""]]:
    """Count targets among the k likeliest classes, for each of ``top_k``.

    Of m classes as likely as the target, of which only some are among the k, each has the same
    share in the hit: a model that finds everything equally likely is right once in V times. What
    is not a number hits nothing.

    Args:
        logits: in float32; V at most 2**24, up to which float32 counts exactly.
        target: each in [0, V).
        top_k: how many classes count as likeliest.
        scratch: memory to overwrite, or None for new one.
    """
    own = logits.gather(1, target[:, None])
    # Comparisons that are written as float32 are summed several times as fast as truth values.
    marks = torch.empty_like(logits) if scratch is None else scratch
    ahead = logits.shape[1] - torch.le(logits, own, out=marks).sum(dim=1)
    tied = torch.eq(logits, own, out=marks).sum(dim=1).clamp(min=1)
    return [((k - ahead) / tied).clamp(0, 1).sum() for k in top_k]


class _TokenScore(torch.autograd.Function):
    """The loss with its gradients, chunk by chunk; the accuracies have none."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "n D"],
        head: Float[Tensor, "V D"],
        target: Int[Tensor, " n"],
        dtype: torch.dtype,
        needed: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = max(1, LOGITS_PER_CHUNK // len(head))
        totals = torch.zeros(3, device=hidden.device)
        memory = hidden.new_empty((2, min(rows, len(hidden)), len(head)), dtype=torch.float32)
        with without_autocast(hidden):
            matrix = head.detach().to(dtype)
            hidden_grad = torch.empty_like(hidden) if needed else None
            head_grad = torch.zeros_like(head, dtype=_wide(head.dtype)) if needed else None
            for start in range(0, len(hidden), rows):
                part = slice(start, start + rows)
                inputs = hidden[part].to(dtype)
                logits, scratch = memory[:, : len(inputs)]
                _product(inputs, matrix.t(), out=logits)
                totals += _score_chunk_(logits, target[part], scratch)
                if hidden_grad is not None and head_grad is not None:
                    error = logits.to(dtype)
                    hidden_grad[part] = error @ matrix
                    _add_product(head_grad, error.t(), inputs)
            loss, *shares = totals / len(hidden)
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.n, ctx.head_dtype = len(hidden), head.dtype
        acc1, acc5 = (share * 100 for share in shares)
        ctx.mark_non_differentiable(acc1, acc5)
        return loss, acc1, acc5

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        # Divided here and not before: in float16 a share of the mean is too small to be told
        # from zero until the loss's scale is on it.
        scale = grads[0] / ctx.n
        return hidden_grad * scale, (head_grad * scale).to(ctx.head_dtype), None, None, None


def _score_chunk_(
    logits: Float[Tensor, "n V"], target: Int[Tensor, " n"], scratch: Float[Tensor, "n V"]
) -> Float[Tensor, " 3"]:
    """Sums of losses and hits; logits become the error of the probabilities they stand for."""
    counts = hits(logits, target, top_k=TOP_K, scratch=scratch)
    logits -= logits.amax(dim=1, keepdim=True)
    own = logits.gather(1, target[:, None])
    total = logits.exp_().sum(dim=1, keepdim=True)
    loss = (total.log() - own).sum()
    logits /= total
    logits.scatter_add_(1, target[:, None], torch.full_like(own, -1))
    return torch.stack([loss, *counts])


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    """Write a matrix product, made in its factors' format, in the format of ``out``."""
    if left.dtype == out.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a sum that is kept in a format at least as wide."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype
