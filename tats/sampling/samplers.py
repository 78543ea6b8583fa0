"""The samplers: which passes, with which schedules, make which kind of video.

| sampler | canvas | schedule |
|---|---|---|
| short, audio, text | the training clip | ``whole`` |
| long | any length | ``sliding``; ``spatial`` for models with spatial position embeddings |
| hierarchical | any length | ``sliding`` over every fourth frame, then ``infill`` |

A new sampler is a schedule in ``windows.py`` and a function here that makes passes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tats.errors import UserError
from tats.flag_checks import INTERPOLATION_STRIDE
from tats.flags import Interpolation
from tats.models.transformer import Net2NetTransformer
from tats.sampling.draw import TokenFilter
from tats.sampling.passes import Given, Pass
from tats.sampling.windows import Window, infill, sliding, spatial, whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """How to sample, whatever is sampled.

    Args:
        token_filter: top-k, top-p and temperature.
        first_filter: of the first window of a hierarchical video; None for ``token_filter``.
        context: latent frames each new latent frame of a long video is drawn from.
        interpolation: how the interpolation transformer is shown the next key frame.
    """

    token_filter: TokenFilter
    first_filter: TokenFilter | None = None
    context: int = 1
    interpolation: Interpolation = "released"


@dataclass(frozen=True)
class Plan:
    """Passes over a canvas, and what to call them.

    Args:
        kind: short, long or hierarchical.
        latent_shape: (frames, rows, columns) of the canvas.
        passes: who writes what.
        settings: what the passes' tokens depend on, as plain values.
    """

    kind: str
    latent_shape: tuple[int, int, int]
    passes: tuple[Pass, ...]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """What the caller calls things, for messages: arguments, or the flags of a script."""

    gpt: str = "gpt"
    interpolation: str = "interpolation"
    label: str = "label"
    text: str = "text"
    audio: str = "audio"
    frames: str = "frames"
    context: str = "context"


ARGUMENTS = Words()


def short(
    model: Net2NetTransformer, given: Given, wishes: Wishes, n_latent_frames: int | None = None
) -> Plan:
    """Plan clips as long as the training clips, or shorter."""
    n_frames, rows, columns = model.latent_shape
    n_frames = n_frames if n_latent_frames is None else n_latent_frames
    share = _pass(model, given, wishes, whole(n_frames * rows * columns))
    return Plan("short", (n_frames, rows, columns), (share,), _settings(wishes))


def long(
    model: Net2NetTransformer,
    given: Given,
    wishes: Wishes,
    n_latent_frames: int,
    words: Words = ARGUMENTS,
) -> Plan:
    """Plan clips longer than the training clips, by a sliding window.

    A model with spatial position embeddings slides over the whole frame it was trained on crops
    of; others slide in time alone.

    Raises:
        UserError: the context does not fit the model or the length.

    Source: Ge et al. §3.2.
    """
    rows, columns = frame_shape(model)
    _check_context(model, wishes.context, n_latent_frames, words)
    if model.transformer.vtokens_grid is None:
        schedule: Sequence[Window] = sliding(n_latent_frames, rows * columns, wishes.context)
    else:
        t, h, w = model.latent_shape
        canvas_shape = (n_latent_frames, rows, columns)
        schedule = spatial(canvas_shape, (min(t, n_latent_frames), h, w), wishes.context)
    share = _pass(model, given, wishes, schedule)
    settings = {**_settings(wishes), "context": wishes.context}
    return Plan("long", (n_latent_frames, rows, columns), (share,), settings)


def hierarchical(
    key_model: Net2NetTransformer,
    fill_model: Net2NetTransformer,
    given: Given,
    wishes: Wishes,
    n_latent_frames: int,
    words: Words = ARGUMENTS,
) -> Plan:
    """Plan long clips: key frames first, then the frames between them.

    Args:
        key_model: writes every fourth latent frame, by a sliding window.
        fill_model: an interpolation transformer.
        given: what samples are made from.
        wishes: how to sample.
        n_latent_frames: a multiple of 4, plus 1.
        words: for messages.

    Raises:
        UserError: the models do not fit each other, or the context does not fit.

    Source: Ge et al. §3.3.
    """
    rows, columns = frame_shape(key_model)
    check_pair(key_model, fill_model, words)
    tokens_per_frame, stride = rows * columns, INTERPOLATION_STRIDE
    n_keys = (n_latent_frames - 1) // stride + 1
    _check_context(key_model, wishes.context, n_latent_frames - 1, words)
    keys = _spread(sliding(n_keys, tokens_per_frame, wishes.context), tokens_per_frame)
    first = wishes.first_filter or wishes.token_filter
    between = infill(n_latent_frames, tokens_per_frame, stride)
    passes = [_pass(key_model, given, wishes, keys[:1], token_filter=first)]
    if keys[1:]:
        passes.append(_pass(key_model, given, wishes, keys[1:]))
    passes.append(_pass(fill_model, given, wishes, between))
    settings = {
        **_settings(wishes),
        "first_filter": vars(first),
        "context": wishes.context,
        "interpolation": wishes.interpolation,
    }
    return Plan("hierarchical", (n_latent_frames, rows, columns), tuple(passes), settings)


def check_pair(
    key_model: Net2NetTransformer, fill_model: Net2NetTransformer, words: Words = ARGUMENTS
) -> None:
    """Refuse transformers that cannot make a hierarchical video together.

    Raises:
        UserError: says which of them does not fit, and why.
    """
    name, other = words.interpolation, words.gpt
    n_unmasked = fill_model.transformer.n_unmasked
    rows, columns = frame_shape(key_model)
    if not n_unmasked:
        raise UserError(
            f"{name} got a model without n_unmasked, which cannot look at the next key frame; "
            "expected an interpolation model, trained with --n_unmasked"
        )
    if frame_shape(fill_model) != (rows, columns):
        raise UserError(
            f"{name} got a model of {frame_shape(fill_model)} latent frames; expected "
            f"{(rows, columns)} as {other}"
        )
    if fill_model.cond_vocab_size not in (key_model.cond_vocab_size, 0):
        raise UserError(
            f"{name} got a model of {fill_model.cond_vocab_size} classes; expected "
            f"{key_model.cond_vocab_size} as {other}"
        )
    if n_unmasked != rows * columns:
        raise UserError(
            f"{name} got a model with n_unmasked {n_unmasked}; expected {rows * columns}, the "
            "tokens of a latent frame"
        )


def frame_shape(model: Net2NetTransformer) -> tuple[int, int]:
    """Latent rows and columns a model samples: of crops, those of the whole frame."""
    grid = model.transformer.vtokens_grid
    return model.latent_shape[1:] if grid is None else grid[1:]


def _pass(
    model: Net2NetTransformer,
    given: Given,
    wishes: Wishes,
    schedule: Sequence[Window],
    token_filter: TokenFilter | None = None,
) -> Pass:
    return Pass(
        gpt=model.transformer,
        offset=model.cond_vocab_size,
        condition=lambda samples: given.tokens(model, samples),
        n_condition=model.conditioner.n_tokens,
        schedule=schedule,
        token_filter=token_filter or wishes.token_filter,
        interpolation=wishes.interpolation,
    )


def _settings(wishes: Wishes) -> dict[str, Any]:
    return {"filter": vars(wishes.token_filter)}


def _spread(schedule: list[Window], tokens_per_frame: int) -> list[Window]:
    """Move a schedule over key frames 0, 1, 2 … to their places among all frames."""

    def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
        step = INTERPOLATION_STRIDE * tokens_per_frame
        return tuple(
            key * step + token for key, token in (divmod(i, tokens_per_frame) for i in indices)
        )

    return [Window(write=moved(w.write), past=moved(w.past)) for w in schedule]


def _check_context(
    model: Net2NetTransformer, context: int, n_latent_frames: int, words: Words
) -> None:
    n_inputs = model.transformer.block_size + 1 - model.conditioner.n_tokens
    n_readable = n_inputs // torch.Size(model.latent_shape[1:]).numel()
    if not 1 <= context < n_readable:
        raise UserError(
            f"{words.context} got {context}; expected 1 to {n_readable - 1}: the transformer can "
            f"read {n_readable} latent frames, the new one among them"
        )
    if context >= n_latent_frames:
        raise UserError(
            f"{words.context} got {context}; expected less than {n_latent_frames}, the latent "
            f"frames of {words.frames}: the first window would already fill the video"
        )
