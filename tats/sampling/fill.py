"""The one sampling loop: fill a canvas of video tokens, window by window.

For each window the model reads ``[condition | past | future]`` in one pass (``prefill``) and then
one token at a time (``decode_one_token``), through a cache allocated once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tats.models.gpt import GPT, KVCache, training_mask
from tats.sampling.draw import TokenFilter, draw_token
from tats.sampling.engines.cuda import StaticStep, static_step
from tats.sampling.engines.prepared import PreparedGPT
from tats.sampling.windows import Window, check_schedule

Interpolation = Literal["released", "trained"]
Model = GPT | PreparedGPT
KEEP_ALL_TOKENS = TokenFilter()


class SlotPlan(NamedTuple):
    """What is fed to each cache slot of a window, in order: condition, past, future, write.

    The window's last written token is predicted but never fed.
    """

    canvas_indices: tuple[int, ...]  # of the video tokens, behind the condition's slots
    n_prefill: int  # slots of condition, past and future
    read_slot: int  # its output predicts the first written token
    positions: Tensor  # (slots,) row of the position embedding
    mask: Tensor | None  # bool (slots, slots), True = visible; None = causal
    video_positions: Tensor | None  # (slots,) place in the model's grid; None without a grid

    def inputs(self, start: int, stop: int) -> dict[str, Tensor | None]:
        """Arguments of ``GPT.forward_cached`` for the slots start..stop-1."""
        return {
            "mask": None if self.mask is None else self.mask[start:stop, :stop],
            "video_positions": (
                None if self.video_positions is None else self.video_positions[start:stop]
            ),
        }


@torch.no_grad()
def decode(
    gpt: Model,
    canvas: Tensor,
    condition: Tensor,
    schedule: Sequence[Window],
    *,
    token_filter: TokenFilter = KEEP_ALL_TOKENS,
    seeds: Sequence[int] | None = None,
    interpolation: Interpolation = "released",
    valid_tokens: tuple[int, int] | None = None,
    complete: bool = True,
) -> Tensor:
    """Generate every unknown token of a canvas.

    A sample's tokens depend on its own condition, known tokens and seed, never on the samples
    beside it. A token that is already known is kept, so a canvas can be primed or continued.

    Args:
        gpt: the model; a ``PreparedGPT`` is faster.
        canvas: int64 (B, N) tokens of the GPT's vocabulary; -1 where unknown, at the same places
            in all samples.
        condition: int64 (B, L), L >= 1.
        schedule: windows that together write every unknown token.
        token_filter: top-k, top-p and temperature; temperature 0 is greedy.
        seeds: one seed a sample; None takes them from torch's global generator.
        interpolation: how the future tokens of a window are shown to the model. ``trained``: where
            and how training shows them. ``released``: as the published sampler does.
        valid_tokens: half-open range of tokens that may be drawn; None for the whole vocabulary.
        complete: whether the schedule must write every unknown token; if not, the others stay -1.

    Returns:
        A new canvas (B, N), on the device of ``canvas``.

    Raises:
        ValueError: shapes, tokens, seeds or schedule do not fit the model or each other.

    Source: paper sections 3.2 and 3.3; docs/DEVIATIONS.md D1-D3 (interpolation), D5, D6.
    """
    lowest, highest = valid_tokens or (0, gpt.vocab_size)
    _check_tokens(gpt, canvas, condition, lowest, highest)
    known = _known_indices(canvas)
    n_condition = condition.shape[1]
    check_schedule(
        schedule,
        n_tokens=canvas.shape[1],
        known=known,
        n_condition_tokens=n_condition,
        block_size=gpt.block_size,
        complete=complete,
    )
    _check_model(gpt, schedule, n_condition, interpolation)
    todo = [window for window in schedule if not known.issuperset(window.write)]
    device = gpt.pos_emb.device
    n_slots = max((n_condition + w.n_tokens for w in todo), default=1)
    step = None
    if isinstance(gpt, PreparedGPT):
        step = static_step(gpt, len(canvas), n_slots, token_filter, (lowest, highest))
    writer = _WindowWriter(
        gpt=gpt,
        tokens=canvas.to(device, copy=True),
        condition=condition.to(device),
        known=known,
        uniforms=_uniforms(seeds, *canvas.shape).to(device),
        token_filter=token_filter,
        head=_head_for(gpt, lowest, highest),
        lowest_token=lowest,
        cache=gpt.new_cache(len(canvas), n_slots) if step is None else step.cache,
        step=step,
    )
    for window in todo:
        writer.write(window, plan_slots(gpt, window, n_condition, interpolation))
    return writer.tokens.to(canvas.device)


def prefill(gpt: Model, tokens: Tensor, plan: SlotPlan, cache: KVCache) -> Tensor:
    """Empty the cache and read a window's first tokens (B, S); hidden states (B, S, D)."""
    cache.reset()
    n_slots = tokens.shape[1]
    return gpt.forward_cached(tokens, plan.positions[:n_slots], cache, **plan.inputs(0, n_slots))


def decode_one_token(
    gpt: Model, token: Tensor, slot: int, plan: SlotPlan, cache: KVCache
) -> Tensor:
    """Read one token a sample (B,) into the next slot; its hidden state (B, D)."""
    positions = plan.positions[slot : slot + 1]
    inputs = plan.inputs(slot, slot + 1)
    return gpt.forward_cached(token[:, None], positions, cache, **inputs)[:, 0]


@dataclass(frozen=True)
class _WindowWriter:
    """Everything that stays the same from window to window."""

    gpt: Model
    tokens: Tensor  # (B, N) the canvas, filled in place
    condition: Tensor  # (B, L)
    known: frozenset[int]
    uniforms: Tensor  # (B, N) the random number that decides each canvas token
    token_filter: TokenFilter
    head: Callable[[Tensor], Tensor]  # hidden states (B, D) to logits of the tokens allowed
    lowest_token: int  # token of the first logit
    cache: KVCache
    step: StaticStep | None  # None to feed tokens at growing shapes

    def write(self, window: Window, plan: SlotPlan) -> None:
        """Generate a window's unknown tokens."""
        indices = window.write
        # Tokens of the window that are known already need no step of their own.
        start = next(i for i, index in enumerate(indices) if index not in self.known)
        n_fed = plan.n_prefill + start - self.condition.shape[1]
        video = self.tokens[:, list(plan.canvas_indices[:n_fed])]
        hidden = prefill(self.gpt, torch.cat([self.condition, video], dim=1), plan, self.cache)
        hidden = hidden[:, plan.read_slot if start == 0 else -1]  # (B, D)
        if self.step is not None and start + 1 < len(indices):
            self._write_by_static_steps(self.step, indices, start, plan, hidden)
            return
        for i, index in enumerate(indices[start:], start):
            if index not in self.known:
                self.tokens[:, index] = self._next_token(hidden, index)
            if i + 1 < len(indices):
                slot = plan.n_prefill + i
                hidden = decode_one_token(self.gpt, self.tokens[:, index], slot, plan, self.cache)

    def _write_by_static_steps(
        self, step: StaticStep, indices: Sequence[int], start: int, plan: SlotPlan, hidden: Tensor
    ) -> None:
        step.begin(plan, plan.n_prefill + start, self.uniforms[:, list(indices[start + 1 :])])
        step.token.copy_(self._next_token(hidden, indices[start])[:, None])
        for i, index in enumerate(indices[start:], start):
            if index in self.known:
                step.token.copy_(self.tokens[:, index, None])
            else:
                self.tokens[:, index] = step.token[:, 0]
            if i + 1 < len(indices):
                step(plan.n_prefill + i)

    def _next_token(self, hidden: Tensor, index: int) -> Tensor:
        logits = self.head(hidden)  # (B, V')
        return draw_token(self.token_filter, logits, self.uniforms[:, index]) + self.lowest_token


def _head_for(gpt: Model, lowest: int, highest: int) -> Callable[[Tensor], Tensor]:
    if isinstance(gpt, PreparedGPT):
        return gpt.head_for(lowest, highest)
    return lambda hidden: F.linear(hidden, gpt.head.weight[lowest:highest])


def plan_slots(
    gpt: Model, window: Window, n_condition: int, interpolation: Interpolation
) -> SlotPlan:
    """Lay a window out over cache slots, positions and mask.

    Args:
        gpt: the model.
        window: the window; ``check_schedule`` has passed it.
        n_condition: condition tokens.
        interpolation: see ``decode``.

    Returns:
        The plan, its tensors on the model's device.

    Source: docs/DEVIATIONS.md D1-D3.
    """
    device = gpt.pos_emb.device
    as_trained = interpolation == "trained"
    # In training the block ends one token short of the next key frame's end.
    future = window.future[:-1] if as_trained else window.future
    n_past = n_condition + len(window.past)
    n_prefill = n_past + len(future)
    n_slots = n_prefill + len(window.write) - 1
    positions = torch.cat(
        [
            torch.arange(n_past),
            torch.arange(gpt.block_size - len(future), gpt.block_size),
            torch.arange(n_past, n_past + len(window.write) - 1),
        ]
    ).to(device)
    mask = None
    if window.future and as_trained:
        mask = training_mask(gpt.block_size, gpt.n_unmasked, device)[positions][:, positions]
    elif gpt.n_unmasked > 0:
        corner = training_mask(gpt.block_size, gpt.n_unmasked, device)[:n_prefill, :n_prefill]
        mask = torch.ones(n_slots, n_slots, dtype=torch.bool, device=device).tril()
        mask[:n_prefill, :n_prefill] = corner
    return SlotPlan(
        canvas_indices=window.past + future + window.write[:-1],
        n_prefill=n_prefill,
        read_slot=n_past - 1 if as_trained else n_prefill - 1,
        positions=positions,
        mask=mask,
        video_positions=_video_positions(gpt, window),
    )


def _video_positions(gpt: Model, window: Window) -> Tensor | None:
    """Place in the grid of the token each slot predicts, in time from the window's start."""
    if gpt.vtokens_grid is None:
        return None
    _, rows, columns = gpt.vtokens_grid
    predicted = window.past + window.write
    first_frame_start = min(predicted) // (rows * columns) * (rows * columns)
    return torch.tensor(predicted, device=gpt.pos_emb.device) - first_frame_start


def _uniforms(seeds: Sequence[int] | None, n_samples: int, n_tokens: int) -> Tensor:
    """One number in [0, 1) for each sample and canvas token, from each sample's own seed."""
    if seeds is None:
        seeds = torch.randint(2**63 - 1, (n_samples,)).tolist()
    if len(seeds) != n_samples:
        raise ValueError(f"seeds got {len(seeds)} values; expected one for each of {n_samples}")
    rows = [torch.rand(n_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(rows)


def _known_indices(canvas: Tensor) -> frozenset[int]:
    known = canvas >= 0
    if not torch.equal(known, known[:1].expand_as(known)):
        raise ValueError(
            "canvas got -1 at different places in different samples; expected the "
            "same tokens to be unknown in all"
        )
    return frozenset(known[0].nonzero()[:, 0].tolist())


def _check_tokens(gpt: Model, canvas: Tensor, condition: Tensor, lowest: int, highest: int) -> None:
    for name, tokens, least in (("canvas", canvas, -1), ("condition", condition, 0)):
        if tokens.dtype != torch.int64 or tokens.ndim != 2 or 0 in tokens.shape:
            raise ValueError(
                f"{name} got {tokens.dtype} {tuple(tokens.shape)}; expected "
                "int64 (samples, tokens), at least one of each"
            )
        if int(tokens.min()) < least or int(tokens.max()) >= gpt.vocab_size:
            raise ValueError(
                f"{name} got tokens {int(tokens.min())} to {int(tokens.max())}; "
                f"expected {least} to {gpt.vocab_size - 1}"
            )
    if len(canvas) != len(condition):
        raise ValueError(f"canvas got {len(canvas)} samples; condition has {len(condition)}")
    if not 0 <= lowest < highest <= gpt.vocab_size:
        raise ValueError(
            f"valid_tokens got ({lowest}, {highest}); expected a non-empty range "
            f"inside (0, {gpt.vocab_size})"
        )


def _check_model(
    gpt: Model, schedule: Sequence[Window], n_condition: int, interpolation: Interpolation
) -> None:
    if interpolation not in ("released", "trained"):
        raise ValueError(f"interpolation got {interpolation!r}; expected 'released' or 'trained'")
    for number, window in enumerate(schedule):
        n_future = len(window.future)
        if n_future and interpolation == "trained" and n_future != gpt.n_unmasked:
            raise ValueError(
                f"window {number} has {n_future} future tokens; the model was "
                f"trained with n_unmasked {gpt.n_unmasked}"
            )
    if gpt.vtokens_grid is not None:
        _check_grid(gpt.vtokens_grid, schedule, n_condition)


def _check_grid(grid: tuple[int, int, int], schedule: Sequence[Window], n_condition: int) -> None:
    frames, rows, columns = grid
    if n_condition != 1:
        raise ValueError(
            f"condition got {n_condition} tokens; expected 1 for a model with a vtokens_grid"
        )
    for number, window in enumerate(schedule):
        if window.future:
            raise ValueError(
                f"window {number} has future tokens; a model with a vtokens_grid cannot place them"
            )
        times = [index // (rows * columns) for index in (*window.past, *window.write)]
        if max(times) - min(times) >= frames:
            raise ValueError(
                f"window {number} spans {max(times) - min(times) + 1} frames; "
                f"expected at most the {frames} of the vtokens_grid {grid}"
            )
