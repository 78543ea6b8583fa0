"""The one sampling loop: fill a canvas of video tokens, window by window.

The algorithm, without what makes it fast, is

    for window in schedule:
        for i, index in enumerate(window.write):
            video = canvas[:, [*window.past, *window.write[:i]]]
            logits = gpt(torch.cat([condition, video], dim=1))
            canvas[:, index] = draw(token_filter(logits[:, -1]))

An engine does the same with a cache: it reads ``[condition | past | future]`` in one pass, and
then one token at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from tats.flags import Interpolation
from tats.models.gpt import GPT
from tats.randomness import draw_keys
from tats.sampling.draw import TokenFilter
from tats.sampling.engines import Engine, engine_for
from tats.sampling.slots import plan_slots
from tats.sampling.windows import Window, check_schedule, longest_window

KEEP_ALL_TOKENS = TokenFilter()


@torch.no_grad()
def fill(
    gpt: GPT,
    canvas: Int[Tensor, "B N"],
    condition: Int[Tensor, "B L"],
    schedule: Sequence[Window],
    *,
    token_filter: TokenFilter = KEEP_ALL_TOKENS,
    seeds: Sequence[int] | None = None,
    interpolation: Interpolation = "released",
    valid_tokens: tuple[int, int] | None = None,
    engine: type[Engine] | None = None,
) -> Int[Tensor, "B N"]:
    """Generate every unknown token of a canvas.

    A sample's tokens depend on its own condition, known tokens and seed, never on the samples
    beside it. A token that is already known is kept, so a canvas can be primed or continued.

    Args:
        gpt: the model, in eval mode; its weights may be laid out anew, with the same values.
        canvas: int64 tokens of the GPT's vocabulary; -1 where unknown, at the same places in all
            samples.
        condition: int64, L >= 1.
        schedule: windows that together write every unknown token.
        token_filter: top-k, top-p and temperature; temperature 0 is greedy.
        seeds: one seed a sample; None takes them from torch's global generator.
        interpolation: how the future tokens of a window are shown to the model. ``trained``: where
            and how training shows them. ``released``: as the published sampler does.
        valid_tokens: half-open range of tokens that may be drawn; None for the whole vocabulary.
        engine: how steps are taken; None for what suits the model's device.

    Returns:
        A new canvas, on the device of ``canvas``.

    Raises:
        ValueError: shapes, tokens, seeds or schedule do not fit the model or each other.

    Source: Ge et al. §3.2 and §3.3; docs/DEVIATIONS.md D1-D3 (interpolation), D5, D6.
    """
    _check_tokens(gpt, canvas, condition, *_token_range(gpt, valid_tokens))
    check_schedule(
        schedule,
        n_tokens=canvas.shape[1],
        known=_known_indices(canvas),
        n_condition_tokens=condition.shape[1],
        block_size=gpt.block_size,
    )
    filled = canvas.to(gpt.pos_emb.device, copy=True)
    for _ in filled_windows(
        gpt, filled, condition, schedule, token_filter=token_filter, seeds=seeds,
        interpolation=interpolation, valid_tokens=valid_tokens, engine=engine,
    ):  # fmt: skip
        pass
    return filled.to(canvas.device)


@torch.no_grad()
def filled_windows(
    gpt: GPT,
    canvas: Int[Tensor, "B N"],
    condition: Int[Tensor, "B L"],
    schedule: Sequence[Window],
    *,
    token_filter: TokenFilter = KEEP_ALL_TOKENS,
    seeds: Sequence[int] | None = None,
    interpolation: Interpolation = "released",
    valid_tokens: tuple[int, int] | None = None,
    engine: type[Engine] | None = None,
) -> Iterator[Window]:
    """Fill a canvas in place, and yield each window when it is done.

    What stands on the canvas between two windows is all there is to know of the work: a canvas
    that was left half filled, or stored, goes on as if nothing had happened. Arguments are those of
    ``fill``, except that ``canvas`` is on the model's device, and that ``check_schedule`` has
    passed ``schedule``, which need not be complete.

    Yields:
        Each window once its tokens are written; those without an unknown token are skipped.

    Raises:
        ValueError: shapes, tokens or seeds do not fit the model or each other.
    """
    lowest, highest = _token_range(gpt, valid_tokens)
    _check_tokens(gpt, canvas, condition, lowest, highest)
    known = set(_known_indices(canvas))
    n_condition = condition.shape[1]
    _check_model(gpt, schedule, n_condition, interpolation)
    condition = condition.to(canvas.device)
    keys = _keys(seeds, *canvas.shape).to(canvas.device)
    n_slots = n_condition + longest_window(schedule)
    sizes = {"batch_size": len(canvas), "n_slots": n_slots, "token_filter": token_filter}
    for window in schedule:
        if known.issuperset(window.write):
            continue
        # Windows of two canvases may come in turn, so each asks for its engine.
        steps = engine_for(gpt, engine, valid_tokens=(lowest, highest), **sizes)
        plan = plan_slots(gpt, window, n_condition, interpolation)
        # Tokens of the window that are known already need no step of their own.
        start = next(i for i, index in enumerate(window.write) if index not in known)
        n_read = plan.n_prefill + start - n_condition
        video = canvas[:, list(plan.canvas_indices[:n_read])]
        left = window.write[start:]
        token = steps.begin(plan, torch.cat([condition, video], dim=1), keys[:, list(left)])
        for i, index in enumerate(left, start=1):
            if index in known:
                token = canvas[:, index]
            else:
                canvas[:, index] = token
            if i < len(left):
                token = steps.step(token)
        known.update(window.write)
        yield window


def _token_range(gpt: GPT, valid_tokens: tuple[int, int] | None) -> tuple[int, int]:
    return valid_tokens or (0, gpt.vocab_size)


def _keys(seeds: Sequence[int] | None, n_samples: int, n_tokens: int) -> Int[Tensor, "B N 2"]:
    """What decides each canvas token of each sample, from the sample's own seed."""
    if seeds is None:
        seeds = torch.randint(2**63 - 1, (n_samples,)).tolist()
    if len(seeds) != n_samples:
        raise ValueError(f"seeds got {len(seeds)} values; expected one for each of {n_samples}")
    return draw_keys(seeds, n_tokens)


def _known_indices(canvas: Tensor) -> frozenset[int]:
    known = canvas >= 0
    if not torch.equal(known, known[:1].expand_as(known)):
        raise ValueError(
            "canvas got -1 at different places in different samples; expected the "
            "same tokens to be unknown in all"
        )
    return frozenset(known[0].nonzero()[:, 0].tolist())


def _check_tokens(gpt: GPT, canvas: Tensor, condition: Tensor, lowest: int, highest: int) -> None:
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
    gpt: GPT, schedule: Sequence[Window], n_condition: int, interpolation: Interpolation
) -> None:
    if interpolation not in ("released", "trained"):
        raise ValueError(f"interpolation got {interpolation!r}; expected 'released' or 'trained'")
    for number, window in enumerate(_telling(schedule)):
        n_future = len(window.future)
        if n_future and interpolation == "trained" and n_future != gpt.n_unmasked:
            raise ValueError(
                f"window {number} has {n_future} future tokens; the model was "
                f"trained with n_unmasked {gpt.n_unmasked}"
            )
    if gpt.vtokens_grid is not None:
        _check_grid(gpt.vtokens_grid, schedule, n_condition)


def _telling(schedule: Sequence[Window]) -> Sequence[Window]:
    """The windows to look at: of a lazy schedule, whose windows are alike, the last one."""
    return schedule if isinstance(schedule, list) else schedule[-1:]


def _check_grid(grid: tuple[int, int, int], schedule: Sequence[Window], n_condition: int) -> None:
    frames, rows, columns = grid
    if n_condition != 1:
        raise ValueError(
            f"condition got {n_condition} tokens; expected 1 for a model with a vtokens_grid"
        )
    for number, window in enumerate(_telling(schedule)):
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
