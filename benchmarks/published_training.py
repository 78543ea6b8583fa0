"""The published transformer's training step: masked softmax attention, whole logits, a top-5 sort.

It is the yardstick of the training step's speed, written afresh from its description: the scores
of all pairs of tokens are multiplied out, masked and normalised as tensors of their own, logits
of every position are made and kept for the backward pass, and accuracies come from the five
likeliest codes at every step.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tats.models.gpt import GPT


def step_as_published(
    gpt: GPT, condition: Int[Tensor, "B L"], codes: Int[Tensor, "B N"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Score a batch of tokens.

    Args:
        gpt: a causal model.
        condition: tokens of the condition.
        codes: tokens of the videos, in the GPT's numbering.

    Returns:
        Loss, with a gradient; top-1 and top-5 accuracy in percent.
    """
    tokens = torch.cat([condition, codes], dim=1)
    logits = _logits(gpt, tokens[:, :-1])[:, condition.shape[1] - 1 :]
    logits, target = logits.reshape(-1, logits.shape[-1]), codes.reshape(-1)
    hit = logits.topk(5, dim=1).indices.t().eq(target[None])  # (5, B·N)
    acc1, acc5 = (hit[:k].reshape(-1).float().sum() * (100 / len(target)) for k in (1, 5))
    return F.cross_entropy(logits, target), acc1, acc5


def _logits(gpt: GPT, tokens: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
    n_tokens = tokens.shape[1]
    x = gpt.tok_emb(tokens) + gpt.pos_emb[:, :n_tokens]
    later = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=x.device).triu(1)
    layers: Any = gpt.blocks
    for block in layers:
        h, attn = block.ln1(x), block.attn
        query, key, value = (
            rearrange(project(h), "b s (h d) -> b h s d", h=gpt.n_head)
            for project in (attn.query, attn.key, attn.value)
        )
        scores = query @ key.transpose(2, 3) * (1 / key.shape[3] ** 0.5)
        weights = F.softmax(scores.masked_fill(later, -torch.inf), dim=3)
        x = x + attn.proj(rearrange(weights @ value, "b h s d -> b s (h d)"))
        x = x + block.mlp(block.ln2(x))
    return gpt.head(gpt.ln_f(x))
