"""Schedules: which tokens a sampler writes, in which order, and what it looks at meanwhile.

A video's latent tokens lie on a *canvas*, flattened time, row, column. Every sampler is a list of
windows over it; ``fill`` knows nothing else. Pure data: nothing here touches a tensor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class Window:
    """One run of the model over part of the canvas.

    Args:
        write: canvas indices of the tokens to generate, in this order.
        past: canvas indices of known tokens, read right after the condition.
        future: canvas indices of the next key frame, read at the end of the model's block.
    """

    write: tuple[int, ...]
    past: tuple[int, ...] = ()
    future: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Canvas tokens the window reads or writes."""
        return len(self.past) + len(self.write) + len(self.future)


def whole(n_tokens: int) -> list[Window]:
    """Write a canvas that fits the model's block in one window.

        frame     0    1    2    3
        window 0  w    w    w    w        w written

    Args:
        n_tokens: canvas tokens, >= 1.

    Returns:
        A schedule of one window.

    Raises:
        ValueError: ``n_tokens`` is below 1.

    Source: Ge et al. §3.2.
    """
    _at_least(1, n_tokens=n_tokens)
    return [Window(write=tuple(range(n_tokens)))]


def sliding(n_frames: int, tokens_per_frame: int, context_frames: int) -> list[Window]:
    """Write ``context_frames`` frames at once, then one frame at a time after as many.

        frame     0    1    2    3    4   (two frames of context)
        window 0  w    w
        window 1  p    p    w             p past, read after the condition
        window 2       p    p    w        w written
        window 3            p    p    w

    Args:
        n_frames: latent frames of the canvas, >= 1.
        tokens_per_frame: tokens of one latent frame, >= 1.
        context_frames: latent frames a new frame is conditioned on, >= 1.

    Returns:
        One window for the first frames, and one for each later frame.

    Raises:
        ValueError: an argument is below 1.

    Source: Ge et al. §3.2, sliding-window attention.
    """
    _at_least(
        1, n_frames=n_frames, tokens_per_frame=tokens_per_frame, context_frames=context_frames
    )

    def frames(start: int, stop: int) -> tuple[int, ...]:
        return tuple(range(start * tokens_per_frame, stop * tokens_per_frame))

    first = Window(write=frames(0, min(context_frames, n_frames)))
    return [first] + [
        Window(write=frames(frame, frame + 1), past=frames(frame - context_frames, frame))
        for frame in range(context_frames, n_frames)
    ]


def infill(n_frames: int, tokens_per_frame: int, stride: int) -> list[Window]:
    """Write the frames between key frames 0, stride, 2 * stride ... that are already known.

        frame     0    1    2    3    4    5    6    7    8   (stride 4)
        window 0  p    w    w    w    f                       p past, f future, w written
        window 1                      p    w    w    w    f

    Args:
        n_frames: latent frames of the canvas, a multiple of ``stride`` plus 1.
        tokens_per_frame: tokens of one latent frame, >= 1.
        stride: distance of two key frames, >= 2.

    Returns:
        One window for each pair of neighbouring key frames.

    Raises:
        ValueError: an argument is out of range.

    Source: Ge et al. §3.3, interpolation transformer.
    """
    _at_least(1, n_frames=n_frames, tokens_per_frame=tokens_per_frame)
    _at_least(2, stride=stride)
    if (n_frames - 1) % stride:
        raise ValueError(f"n_frames got {n_frames}; expected a multiple of stride {stride} plus 1")

    def frames(start: int, stop: int) -> tuple[int, ...]:
        return tuple(range(start * tokens_per_frame, stop * tokens_per_frame))

    return [
        Window(
            write=frames(key + 1, key + stride),
            past=frames(key, key + 1),
            future=frames(key + stride, key + stride + 1),
        )
        for key in range(0, n_frames - 1, stride)
    ]


@dataclass(frozen=True)
class SpatialWindows(Sequence[Window]):
    """The windows of ``spatial``, each made when it is asked for: together they would fill memory.

    Args:
        canvas_shape: latent (frames, rows, columns) of the canvas.
        window_shape: latent (frames, rows, columns) of the training clip.
        context_frames: frames before the token.
    """

    canvas_shape: Size3
    window_shape: Size3
    context_frames: int

    def __len__(self) -> int:
        return math.prod(self.canvas_shape)

    @overload
    def __getitem__(self, number: int) -> Window: ...
    @overload
    def __getitem__(self, number: slice) -> list[Window]: ...
    def __getitem__(self, number: int | slice) -> Window | list[Window]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        token = range(len(self))[number]
        _, rows, columns = self.canvas_shape
        place = (token // (rows * columns), token // columns % rows, token % columns)
        centres = (self.context_frames, self.window_shape[1] // 2, self.window_shape[2] // 2)
        sizes = zip(place, self.canvas_shape, self.window_shape, centres, strict=True)
        t, y, x = (_window_start(*size) for size in sizes)
        box = self._box + ((t * rows + y) * columns + x)
        return Window(write=(token,), past=tuple(box[box < token].tolist()))

    @functools.cached_property
    def _box(self) -> np.ndarray:
        """Canvas indices of the window at the canvas' first corner, in raster order."""
        _, rows, columns = self.canvas_shape
        t, y, x = np.indices(self.window_shape)
        return ((t * rows + y) * columns + x).ravel()


def spatial(canvas_shape: Size3, window_shape: Size3, context_frames: int) -> Sequence[Window]:
    """Write a canvas larger than the model's clip in every direction, one token a window.

    Each token sees the tokens before it in a box of the training size. The box is centred on the
    token in rows and columns, has ``context_frames`` frames before it in time, and stops at the
    canvas' borders. One frame of it, in the middle and at a corner (p past, w written):

        . . . . . .      p p w . . .
        . p p p . .      . . . . . .
        . p w . . .      . . . . . .
        . . . . . .      . . . . . .

    Args:
        canvas_shape: latent (frames, rows, columns) of the canvas.
        window_shape: latent (frames, rows, columns) of the training clip, none above the canvas'.
        context_frames: frames before the token, 0 <= context_frames < window frames.

    Returns:
        One window for each canvas token, in raster order; they are made when asked for.

    Raises:
        ValueError: a size is out of range.

    Source: published sampler for models with spatial position embeddings.
    """
    _at_least(1, **_named("canvas", canvas_shape))
    _at_least(1, **_named("window", window_shape))
    if any(w > c for w, c in zip(window_shape, canvas_shape, strict=True)):
        raise ValueError(f"window_shape got {window_shape}; expected at most {canvas_shape}")
    if not 0 <= context_frames < window_shape[0]:
        raise ValueError(
            f"context_frames got {context_frames}; expected 0 to {window_shape[0] - 1}"
        )
    return SpatialWindows(canvas_shape, window_shape, context_frames)


def longest_window(schedule: Sequence[Window]) -> int:
    """Canvas tokens of a schedule's longest window; 0 where there is none."""
    if isinstance(schedule, SpatialWindows):
        return math.prod(schedule.window_shape)
    return max((window.n_tokens for window in schedule), default=0)


def check_schedule(
    schedule: Sequence[Window],
    *,
    n_tokens: int,
    known: Iterable[int] = (),
    n_condition_tokens: int = 1,
    block_size: int | None = None,
    complete: bool = True,
) -> None:
    """Refuse a schedule that cannot be carried out, before any work is done.

    Args:
        schedule: windows, in the order they will run.
        n_tokens: canvas tokens.
        known: canvas indices that hold a token from the start.
        n_condition_tokens: condition tokens in front of every window, >= 1.
        block_size: the model's longest input, or None not to check it.
        complete: whether every token must be known in the end.

    Raises:
        ValueError: a token lies outside the canvas, is written twice, is read before it is
            known, is never written though unknown, or a window is longer than the block.
    """
    if isinstance(schedule, SpatialWindows):
        # Each writes the next token after tokens before it, so it is sound if sizes are.
        _check_sizes(schedule, n_tokens, n_condition_tokens, block_size)
        return
    at_hand = set(known)
    written: set[int] = set()
    for number, window in enumerate(schedule):
        name = f"window {number}"
        if not window.write:
            raise ValueError(f"{name} writes no token; expected at least one")
        for index in (*window.past, *window.future):
            if index not in at_hand:
                raise ValueError(f"{name} reads token {index} before it is known")
        for index in window.write:
            if not 0 <= index < n_tokens:
                raise ValueError(f"{name} writes token {index}; expected 0 to {n_tokens - 1}")
            if index in written:
                raise ValueError(f"{name} writes token {index}, which was written before")
            written.add(index)
        at_hand.update(window.write)
        _check_length(name, window.n_tokens, n_condition_tokens, block_size)
    missing = n_tokens - len(at_hand)
    if complete and missing > 0:
        first = next(i for i in range(n_tokens) if i not in at_hand)
        raise ValueError(f"the schedule leaves {missing} tokens unknown; the first is {first}")


def _check_length(name: str, n_tokens: int, n_condition: int, block_size: int | None) -> None:
    n_inputs = n_condition + n_tokens - 1  # the last token of a window is predicted, never fed
    if block_size is not None and n_inputs > block_size:
        raise ValueError(
            f"{name} needs {n_inputs} inputs ({n_condition} condition + {n_tokens} video tokens "
            f"- 1); expected at most block_size {block_size}"
        )


def _check_sizes(
    schedule: SpatialWindows, n_tokens: int, n_condition: int, block_size: int | None
) -> None:
    if len(schedule) > n_tokens:
        raise ValueError(f"window {n_tokens} writes token {n_tokens}; expected 0 to {n_tokens - 1}")
    if len(schedule) < n_tokens:
        raise ValueError(
            f"the schedule leaves {n_tokens - len(schedule)} tokens unknown; the first is "
            f"{len(schedule)}"
        )
    _check_length("the last window", longest_window(schedule), n_condition, block_size)


def _window_start(i: int, canvas: int, window: int, centre: int) -> int:
    """First canvas index of the window that writes index ``i`` of one axis."""
    if i <= centre:
        return 0
    return min(i - centre, canvas - window)


def _named(what: str, shape: tuple[int, int, int]) -> dict[str, int]:
    frames, rows, columns = shape
    return {f"{what} frames": frames, f"{what} rows": rows, f"{what} columns": columns}


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} got {value}; expected at least {minimum}")
