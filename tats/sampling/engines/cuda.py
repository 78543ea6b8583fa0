"""Decoding steps on a GPU: a step at fixed shapes, captured once and replayed for every token.

Everything the step reads and writes is on the device. It is captured as a CUDA graph once for each
length bucket: the processor only says "again", and never waits for a token.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from tats.models.gpt import GPT
from tats.sampling.draw import draw_token
from tats.sampling.engines.plain import Engine
from tats.sampling.slots import SlotPlan

DEVICES = ("cuda",)  # where replaying a step is faster than a step of growing shapes
BUCKET = 128  # slots by which the part of the cache that is read grows


class CudaEngine(Engine):
    """Replays a captured step; see ``Engine``."""

    def __init__(self, gpt: GPT, **sizes: Any) -> None:
        gpt.join_projections_()
        super().__init__(gpt, **sizes)
        n_slots, device = self.cache.max_length, gpt.pos_emb.device
        self._token = torch.zeros(self.batch_size, 1, dtype=torch.int64, device=device)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self._slot_keys = torch.zeros(self.batch_size, n_slots, 2, dtype=torch.int32, device=device)
        self._positions = torch.zeros(n_slots, dtype=torch.int64, device=device)
        self._video_positions: Tensor | None = None
        if gpt.vtokens_grid is not None:
            self._video_positions = torch.zeros_like(self._positions)
        self._visible = torch.zeros(n_slots, n_slots, dtype=torch.bool, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def begin(
        self,
        plan: SlotPlan,
        tokens: Int[Tensor, "B S"],
        keys: Int[Tensor, "B n 2"],
    ) -> Int[Tensor, " B"]:
        """Start a window, and leave what its steps will need on the device."""
        token = super().begin(plan, tokens, keys)
        n, slot = len(plan.positions), self.cache.length
        self._positions[:n] = plan.positions
        if self._video_positions is not None and plan.video_positions is not None:
            self._video_positions[: len(plan.video_positions)] = plan.video_positions
        self._visible.fill_(True).tril_()
        if plan.mask is not None:
            self._visible[:n, :n] = plan.mask
        later = keys[:, 1 : 1 + self.cache.max_length - slot]
        self._slot_keys[:, slot : slot + later.shape[1]] = later
        self._slot.fill_(slot)
        return token

    def step(self, token: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Feed one token per sample; the next one stays on the device until the next step."""
        if token.data_ptr() != self._token.data_ptr():
            self._token.copy_(token[:, None])
        self.cache.length += 1
        n_visible = min(-(-self.cache.length // BUCKET) * BUCKET, self.cache.max_length)
        if self._token.device.type == "cpu":
            self._take_step(n_visible)
            return self._token[:, 0]
        if n_visible not in self._graphs:
            self._graphs[n_visible] = self._capture(n_visible)
        self._graphs[n_visible].replay()
        return self._token[:, 0]

    @torch.no_grad()
    def _take_step(self, n_visible: int) -> None:
        """Do the step, looking at the cache's first ``n_visible`` slots at most."""
        slot, cache, gpt = self._slot, self.cache, self.gpt
        visible = self._visible[slot, :n_visible]  # (1, n_visible)

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.keys[layer].index_copy_(2, slot, key)
            cache.values[layer].index_copy_(2, slot, value)
            keys = cache.keys[layer, :, :, :n_visible]
            values = cache.values[layer, :, :, :n_visible]
            return F.scaled_dot_product_attention(query, keys, values, attn_mask=visible)

        video_positions = self._video_positions
        x = gpt.embed(
            self._token,
            gpt.pos_emb[0, self._positions[slot]],
            None if video_positions is None else video_positions[slot],
        )
        logits = self.logits(gpt.layers(x, attend)[:, 0])
        drawn = draw_token(self.token_filter, logits, self._slot_keys[:, slot][:, 0])
        self._token.copy_(drawn[:, None] + self.lowest_token)
        self._slot.add_(1)

    def _capture(self, n_visible: int) -> torch.cuda.CUDAGraph:
        """Record the step, and leave the state as it was."""
        token, slot = self._token.clone(), self._slot.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):  # libraries set themselves up outside the graph
                self._take_step(n_visible)
                self._token.copy_(token)
                self._slot.copy_(slot)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._take_step(n_visible)
        return graph
