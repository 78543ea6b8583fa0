"""The published way to decode: a cache that grows by concatenation, and a sort for every token.

It is the yardstick of the decode engine's speed, written afresh from its description: every step
joins the keys and values of all earlier steps into one tensor, runs the layers eagerly in
float32, and sorts the whole vocabulary to filter it.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from tats.models.gpt import GPT


@torch.no_grad()
def decode_as_published(
    gpt: GPT, start: Tensor, n_tokens: int, *, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Sample a sequence.

    Args:
        gpt: the model, in float32.
        start: condition tokens (B, L).
        n_tokens: tokens to write.
        top_k: as the samplers' flag; 1 is greedy.
        top_p: as the samplers' flag.

    Returns:
        Tokens (B, n_tokens).
    """
    steps: list[Tensor] = []  # each (layers, 2, B, heads, S, head_dim)
    tokens, written = start, []
    for _ in range(n_tokens):
        past = torch.cat(steps, dim=4) if steps else None
        logits, present = _step(gpt, tokens, past)
        steps.append(present)
        probabilities = F.softmax(_filter(logits, top_k, top_p), dim=1)
        tokens = torch.multinomial(probabilities, 1)
        written.append(tokens)
    return torch.cat(written, dim=1)


def _step(gpt: GPT, tokens: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
    n_past = 0 if past is None else past.shape[4]
    n_new = tokens.shape[1]
    x = gpt.tok_emb(tokens) + gpt.pos_emb[:, n_past : n_past + n_new]
    presents = []
    layers: Any = gpt.blocks
    for layer, block in enumerate(layers):
        h, attn = block.ln1(x), block.attn
        query, key, value = (
            rearrange(project(h), "b s (h d) -> b h s d", h=gpt.n_head)
            for project in (attn.query, attn.key, attn.value)
        )
        presents.append(torch.stack([key, value]))
        if past is not None:
            key = torch.cat([past[layer, 0], key], dim=2)
            value = torch.cat([past[layer, 1], value], dim=2)
        scores = query @ key.transpose(2, 3) / key.shape[3] ** 0.5
        if past is None:
            later = torch.ones(n_new, n_new, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        y = F.softmax(scores, dim=3) @ value
        x = x + attn.proj(rearrange(y, "b h s d -> b s (h d)"))
        x = x + block.mlp(block.ln2(x))
    return gpt.head(gpt.ln_f(x))[:, -1], torch.stack(presents)


def _filter(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    if top_k > 0:
        least = logits.topk(min(top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    ordered, tokens = logits.sort(dim=1, descending=True)
    removed = F.softmax(ordered, dim=1).cumsum(dim=1) > top_p
    removed = removed.roll(1, dims=1)
    removed[:, 0] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(1, tokens, removed), -torch.inf)
