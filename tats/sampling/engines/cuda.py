"""One decoding step at fixed shapes, with everything it reads and writes on the device.

On a GPU the step is captured once for each length bucket as a CUDA graph and replayed for every
token: the processor only says "again", and never waits for a token.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from tats.models.gpt import KVCache
from tats.sampling.draw import TokenFilter, draw_token
from tats.sampling.engines.prepared import PreparedGPT

DEVICES = ("cuda",)  # where replaying a step is faster than a step of growing shapes
BUCKET = 128  # slots by which the part of the cache that is read grows


class Plan(Protocol):
    """What a step needs to know of a window; see ``decode.SlotPlan``."""

    @property
    def positions(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor | None: ...

    @property
    def video_positions(self) -> Tensor | None: ...


class StaticStep:
    """Feeds a token a sample into the next slot and draws the token after it.

    Args:
        gpt: the model.
        cache: its cache, at least one slot long.
        batch_size: samples.
        token_filter: top-k, top-p and temperature.
        valid_tokens: half-open range of tokens that may be drawn.
    """

    def __init__(
        self,
        *,
        gpt: PreparedGPT,
        cache: KVCache,
        batch_size: int,
        token_filter: TokenFilter,
        valid_tokens: tuple[int, int],
    ) -> None:
        self.gpt, self.cache, self.token_filter = gpt, cache, token_filter
        self.head, self.lowest_token = gpt.head_for(*valid_tokens), valid_tokens[0]
        n_slots, device = cache.max_length, gpt.pos_emb.device
        self.token = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(batch_size, n_slots, device=device)
        self._positions = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self._places = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self._visible = torch.zeros(n_slots, n_slots, dtype=torch.bool, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def begin(self, plan: Plan, slot: int, uniforms: Tensor) -> None:
        """Get ready for a window whose first slots have been read.

        Args:
            plan: the window's.
            slot: the slot the next token goes to.
            uniforms: (B, n) random numbers of the tokens drawn after slots slot, slot + 1 ...
        """
        n = len(plan.positions)
        self._positions[:n] = plan.positions
        if plan.video_positions is not None:
            self._places[: len(plan.video_positions)] = plan.video_positions
        self._visible.fill_(True).tril_()
        if plan.mask is not None:
            self._visible[:n, :n] = plan.mask
        self._uniforms[:, slot : slot + uniforms.shape[1]] = uniforms
        self._slot.fill_(slot)

    def __call__(self, slot: int) -> None:
        """Feed ``token`` into the slot, and replace it by the token drawn after it."""
        n_visible = min(-(-(slot + 1) // BUCKET) * BUCKET, self.cache.max_length)
        if self.token.device.type == "cpu":
            self.run(n_visible)
            return
        if n_visible not in self._graphs:
            self._graphs[n_visible] = self._capture(n_visible)
        self._graphs[n_visible].replay()

    @torch.no_grad()
    def run(self, n_visible: int) -> None:
        """Do the step, looking at the cache's first ``n_visible`` slots at most."""
        slot, cache = self._slot, self.cache
        visible = self._visible[slot, :n_visible]  # (1, n_visible)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.keys[layer].index_copy_(2, slot, key)
            cache.values[layer].index_copy_(2, slot, value)
            keys, values = (
                cache.keys[layer, :, :, :n_visible],
                cache.values[layer, :, :, :n_visible],
            )
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)

        x = self.gpt.embed(self.token, self._positions[slot], self._places[slot])
        hidden = self.gpt.layers(x, attend)[:, 0]
        uniforms = self._uniforms[:, slot][:, 0]
        drawn = draw_token(self.token_filter, self.head(hidden), uniforms)
        self.token.copy_(drawn[:, None] + self.lowest_token)
        self._slot.add_(1)

    def _capture(self, n_visible: int) -> torch.cuda.CUDAGraph:
        """Record the step; the state is as before afterwards."""
        token, slot = self.token.clone(), self._slot.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries set themselves up outside the graph
                self.run(n_visible)
                self.token.copy_(token)
                self._slot.copy_(slot)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run(n_visible)
        return graph


def static_step(
    gpt: PreparedGPT,
    batch_size: int,
    n_slots: int,
    token_filter: TokenFilter,
    valid_tokens: tuple[int, int],
) -> StaticStep | None:
    """Give the model's step for these sizes; the last one made is kept, with its graphs.

    Args:
        gpt: the model.
        batch_size: samples.
        n_slots: slots of the cache.
        token_filter: top-k, top-p and temperature.
        valid_tokens: half-open range of tokens that may be drawn.

    Returns:
        The step, or None where the model's device is better off without.
    """
    if gpt.pos_emb.device.type not in DEVICES:
        return None
    key = (batch_size, n_slots, token_filter, valid_tokens)
    if gpt.kept_step is None or gpt.kept_step[0] != key:
        gpt.kept_step = None  # its memory first
        step = StaticStep(
            gpt=gpt,
            cache=gpt.new_cache(batch_size, n_slots),
            batch_size=batch_size,
            token_filter=token_filter,
            valid_tokens=valid_tokens,
        )
        gpt.kept_step = (key, step)
    return gpt.kept_step[1]
