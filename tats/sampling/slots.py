"""A window laid out over cache slots: what is fed where, and what it may look at.

    slot        0 … L-1     L …            …               …
    holds       condition   past           future          write, but for its last token
    position    0 … L-1     L …            block_size-n …  after the past's

The window's last written token is predicted but never fed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tats.flags import Interpolation
from tats.models.gpt import GPT, training_mask
from tats.sampling.windows import Window


class SlotInputs(NamedTuple):
    """Of some slots: what they may look at, and where in the video they predict."""

    mask: Bool[Tensor, "S slots"] | None
    video_positions: Int[Tensor, " S"] | None


class SlotPlan(NamedTuple):
    """What is fed to each cache slot of a window, in order: condition, past, future, write."""

    canvas_indices: tuple[int, ...]  # of the video tokens, behind the condition's slots
    n_prefill: int  # slots of condition, past and future
    read_slot: int  # its output predicts the first written token
    positions: Int[Tensor, " slots"]  # row of the position embedding
    mask: Bool[Tensor, "slots slots"] | None  # True = visible; None = causal
    video_positions: Int[Tensor, " slots"] | None  # place in the model's grid; None without one

    def inputs(self, start: int, stop: int) -> SlotInputs:
        """What ``GPT.forward_cached`` must know of the slots start..stop-1."""
        mask, places = self.mask, self.video_positions
        return SlotInputs(
            mask=None if mask is None else mask[start:stop, :stop],
            video_positions=None if places is None else places[start:stop],
        )


def plan_slots(
    gpt: GPT, window: Window, n_condition: int, interpolation: Interpolation
) -> SlotPlan:
    """Lay a window out over cache slots, positions and mask.

    Args:
        gpt: the model.
        window: the window; ``check_schedule`` has passed it.
        n_condition: condition tokens.
        interpolation: see ``fill``.

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


def _video_positions(gpt: GPT, window: Window) -> Tensor | None:
    """Place in the grid of the token each slot predicts, in time from the window's start."""
    if gpt.vtokens_grid is None:
        return None
    _, rows, columns = gpt.vtokens_grid
    predicted = window.past + window.write
    first_frame_start = min(predicted) // (rows * columns) * (rows * columns)
    return torch.tensor(predicted, device=gpt.pos_emb.device) - first_frame_start
