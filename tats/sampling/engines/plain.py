"""Decoding steps one operation at a time: correct anywhere, and the other engines' reference."""

from __future__ import annotations

import weakref

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tats.models.gpt import GPT, KVCache
from tats.sampling.draw import TokenFilter, draw_token
from tats.sampling.slots import SlotPlan


class Engine:
    """Reads a window's first tokens at once, and then draws one token after another.

    Args:
        gpt: the model, in eval mode; not kept alive.
        batch_size: samples.
        n_slots: the most slots a window has.
        token_filter: top-k, top-p and temperature.
        valid_tokens: half-open range of tokens that may be drawn.
    """

    def __init__(
        self,
        gpt: GPT,
        *,
        batch_size: int,
        n_slots: int,
        token_filter: TokenFilter,
        valid_tokens: tuple[int, int],
    ) -> None:
        self._gpt = weakref.ref(gpt)
        self.batch_size = batch_size
        self.token_filter = token_filter
        self.lowest_token, self.end_token = valid_tokens
        self.cache = gpt.new_cache(batch_size, n_slots)
        self.plan: SlotPlan | None = None
        self._keys = torch.empty(batch_size, 0, 2, dtype=torch.int32)
        self._n_drawn = 0

    def begin(
        self,
        plan: SlotPlan,
        tokens: Int[Tensor, "B S"],
        keys: Int[Tensor, "B n 2"],
    ) -> Int[Tensor, " B"]:
        """Start a window: forget the last one, and read its first tokens.

        Args:
            plan: the window's slots.
            tokens: condition, past and future, and perhaps the first written ones.
            keys: decide the tokens drawn now and at each of the next steps, see ``draw_keys``.

        Returns:
            The token drawn after them.
        """
        self.plan, self._keys, self._n_drawn = plan, keys, 0
        hidden = prefill(self.gpt, tokens, plan, self.cache, self.dtype)  # (B, S, D)
        n_read = tokens.shape[1]
        return self._draw(hidden[:, plan.read_slot if n_read == plan.n_prefill else n_read - 1])

    def step(self, token: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Feed one token per sample into the next slot; the token drawn after it."""
        return self._draw(self._feed(token))

    @property
    def gpt(self) -> GPT:
        """The model."""
        gpt = self._gpt()
        assert gpt is not None, "an engine does not outlive its model"
        return gpt

    @property
    def dtype(self) -> torch.dtype | None:
        """Type of the arithmetic; None for that of the weights."""
        return None

    def logits(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Logits of the tokens that may be drawn."""
        return F.linear(hidden, self.gpt.head.weight[self.lowest_token : self.end_token])

    def _feed(self, token: Tensor) -> Float[Tensor, "B D"]:
        assert self.plan is not None, "a window begins before it goes on"
        return decode_one_token(self.gpt, token, self.cache.length, self.plan, self.cache)

    def _draw(self, hidden: Tensor) -> Tensor:
        keys = self._keys[:, self._n_drawn]
        self._n_drawn += 1
        return draw_token(self.token_filter, self.logits(hidden), keys) + self.lowest_token


def prefill(
    gpt: GPT,
    tokens: Int[Tensor, "B S"],
    plan: SlotPlan,
    cache: KVCache,
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "B S D"]:
    """Empty the cache and read a window's first tokens; their hidden states."""
    cache.reset()
    n_slots = tokens.shape[1]
    return gpt.forward_cached(
        tokens, plan.positions[:n_slots], cache, *plan.inputs(0, n_slots), dtype
    )


def decode_one_token(
    gpt: GPT, token: Int[Tensor, " B"], slot: int, plan: SlotPlan, cache: KVCache
) -> Float[Tensor, "B D"]:
    """Read one token per sample into the next slot; its hidden state."""
    positions, inputs = plan.positions[slot : slot + 1], plan.inputs(slot, slot + 1)
    return gpt.forward_cached(token[:, None], positions, cache, *inputs)[:, 0]
