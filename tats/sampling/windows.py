"""Schedules: which tokens a sampler writes, in which order, and what it looks at meanwhile.

A video's latent tokens lie on a *canvas*, flattened time, row, column. Every sampler is a list of
windows over it; the decode engine knows nothing else. Pure data: nothing here touches a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """One run of the decode engine over part of the canvas.

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

    Args:
        n_tokens: canvas tokens, >= 1.

    Returns:
        A schedule of one window.

    Raises:
        ValueError: ``n_tokens`` is below 1.

    Source: paper section 3.2.
    """
    _at_least(1, n_tokens=n_tokens)
    return [Window(write=tuple(range(n_tokens)))]


def sliding(n_frames: int, tokens_per_frame: int, context_frames: int) -> list[Window]:
    """Write ``context_frames`` frames at once, then one frame at a time after as many.

    Args:
        n_frames: latent frames of the canvas, >= 1.
        tokens_per_frame: tokens of one latent frame, >= 1.
        context_frames: latent frames a new frame is conditioned on, >= 1.

    Returns:
        One window for the first frames, and one for each later frame.

    Raises:
        ValueError: an argument is below 1.

    Source: paper section 3.2, sliding-window attention.
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

    Args:
        n_frames: latent frames of the canvas, a multiple of ``stride`` plus 1.
        tokens_per_frame: tokens of one latent frame, >= 1.
        stride: distance of two key frames, >= 2.

    Returns:
        One window for each pair of neighbouring key frames.

    Raises:
        ValueError: an argument is out of range.

    Source: paper section 3.3, interpolation transformer.
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


def spatial(
    canvas_shape: tuple[int, int, int],
    window_shape: tuple[int, int, int],
    context_frames: int,
) -> list[Window]:
    """Write a canvas larger than the model's clip in every direction, one token a window.

    Each token sees the tokens before it in a box of the training size. The box is centred on the
    token in rows and columns, has ``context_frames`` frames before it in time, and stops at the
    canvas' borders.

    Args:
        canvas_shape: latent (frames, rows, columns) of the canvas.
        window_shape: latent (frames, rows, columns) of the training clip, none above the canvas'.
        context_frames: frames before the token, 0 <= context_frames < window frames.

    Returns:
        One window for each canvas token, in raster order.

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
    centres = (context_frames, window_shape[1] // 2, window_shape[2] // 2)
    starts = [
        [_window_start(i, *sizes) for i in range(sizes[0])]
        for sizes in zip(canvas_shape, window_shape, centres, strict=True)
    ]
    _, rows, columns = canvas_shape
    schedule = []
    for t, y, x in _raster(canvas_shape):
        t0, y0, x0 = starts[0][t], starts[1][y], starts[2][x]
        token = (t * rows + y) * columns + x
        box = (
            ((t0 + dt) * rows + y0 + dy) * columns + x0 + dx for dt, dy, dx in _raster(window_shape)
        )
        schedule.append(Window(write=(token,), past=tuple(i for i in box if i < token)))
    return schedule


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
        # The last token of a window is predicted, never fed.
        n_inputs = n_condition_tokens + window.n_tokens - 1
        if block_size is not None and n_inputs > block_size:
            raise ValueError(
                f"{name} needs {n_inputs} inputs ({n_condition_tokens} condition + "
                f"{window.n_tokens} video tokens - 1); expected at most block_size {block_size}"
            )
    missing = n_tokens - len(at_hand)
    if complete and missing > 0:
        first = next(i for i in range(n_tokens) if i not in at_hand)
        raise ValueError(f"the schedule leaves {missing} tokens unknown; the first is {first}")


def _window_start(i: int, canvas: int, window: int, centre: int) -> int:
    """First canvas index of the window that writes index ``i`` of one axis."""
    if i <= centre:
        return 0
    return min(i - centre, canvas - window)


def _raster(shape: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    frames, rows, columns = shape
    return ((t, y, x) for t in range(frames) for y in range(rows) for x in range(columns))


def _named(what: str, shape: tuple[int, int, int]) -> dict[str, int]:
    frames, rows, columns = shape
    return {f"{what} frames": frames, f"{what} rows": rows, f"{what} columns": columns}


def _at_least(minimum: int, **values: int) -> None:
    for name, value in values.items():
        if value < minimum:
            raise ValueError(f"{name} got {value}; expected at least {minimum}")
