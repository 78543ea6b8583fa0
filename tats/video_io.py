"""Writing clips, and turning the models' [-0.5, 0.5] into the files' uint8 and back."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tats.errors import UserError
from tats.paths import atomic_path

try:
    import av
except ImportError:  # the [ffmpeg] extra's writer takes over, see _write_with_imageio
    av = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

GRID_PADDING = 1  # pixels after every clip of a grid
_VIDEO_CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".mov": "libx264", ".webm": "libvpx-vp9"}
_AUDIO_CODECS = {".mp4": "aac", ".avi": "mp3", ".mov": "aac", ".webm": "libopus"}
_SAFE_RATE = 48000  # Hz, which every encoder takes
_AUDIO_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # of AAC and MP3


class Sound(NamedTuple):
    """Audio that goes with a clip: samples (n,) or (n, channels) and their rate in Hz.

    Float samples lie in [-1, 1]; the only other type is int16.
    """

    samples: np.ndarray
    rate: int


def to_uint8(video: Tensor) -> Tensor:
    """Turn model video into file video.

    Args:
        video: float (..., C, T, H, W), nominally in [-0.5, 0.5]; values outside are clamped.

    Returns:
        uint8 (..., T, H, W, C), ``x * 255`` truncated, as the published metrics do.
    """
    unit = video.detach().float().clamp(-0.5, 0.5) + 0.5
    return (unit * 255).to(torch.uint8).movedim(-4, -1)  # (..., T, H, W, C)


def to_float(frames: Tensor | np.ndarray) -> Tensor:
    """Turn file video into model video.

    Args:
        frames: uint8 (..., T, H, W, C).

    Returns:
        float32 (..., C, T, H, W) in [-0.5, 0.5].
    """
    return torch.as_tensor(frames).movedim(-1, -4).float() / 255 - 0.5  # (..., C, T, H, W)


def video_grid(clips: Tensor | np.ndarray, nrow: int | None = None) -> np.ndarray:
    """Lay clips out side by side, row by row.

    Args:
        clips: uint8 (B, T, H, W, C).
        nrow: number of rows; default ceil(sqrt(B)). There are ceil(B / nrow) columns.

    Returns:
        uint8 (T, nrow * (H + 1) + 1, columns * (W + 1) + 1, C): each clip is followed by one black
        pixel below and to its right, and one more closes the grid.

    Source: the published samplers' video grids.
    """
    clips = np.asarray(clips)
    n_clips, n_frames, height, width, channels = clips.shape
    rows = nrow or math.ceil(math.sqrt(n_clips))
    columns = math.ceil(n_clips / rows)
    cell_height, cell_width = height + GRID_PADDING, width + GRID_PADDING
    size = (rows * cell_height + GRID_PADDING, columns * cell_width + GRID_PADDING)
    grid = np.zeros((n_frames, *size, channels), dtype=np.uint8)
    for position, clip in enumerate(clips):
        row, column = divmod(position, columns)
        top, left = row * cell_height, column * cell_width
        grid[:, top : top + height, left : left + width] = clip
    return grid


def write_video(
    path: str | Path,
    frames: Iterable[Any],
    fps: float,
    audio: Sound | tuple[np.ndarray, int] | None = None,
    *,
    crf: int = 18,
    keyframe_every: int | None = None,
) -> None:
    """Write a clip as .mp4 (h264), .avi (mpeg4), .mov, .webm or .gif, whole or not at all.

    Args:
        path: where to; the suffix decides the format.
        frames: uint8 (T, H, W, 3), or any iterable of (H, W, 3), which is written as it comes.
        fps: frames a second.
        audio: sound of the clip.
        crf: h264/vp9 quality, 0 (best) to 51; for .avi it sets the quantiser instead.
        keyframe_every: frames between two keyframes; the codec's choice by default.

    Raises:
        UserError: the path cannot be written, or its suffix is not a known format.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".gif":
        if audio is not None:
            raise UserError(f"{path} is a GIF, which has no sound; name it .mp4 to keep the sound")
        write_gif(path, frames, fps)
        return
    if suffix not in _VIDEO_CODECS:
        known = ", ".join([*_VIDEO_CODECS, ".gif"])
        raise UserError(f"{path} has an unknown video suffix; expected one of {known}")
    with atomic_path(path) as temporary:
        if av is None:
            _write_with_imageio(temporary, frames, fps, audio)
        else:
            sound = None if audio is None else Sound(*audio)
            _write_with_pyav(temporary, frames, fps, sound, crf, keyframe_every)


def write_gif(path: str | Path, frames: Iterable[Any], fps: float) -> None:
    """Write a clip as an endlessly repeated GIF.

    Args:
        path: where to.
        frames: uint8 (T, H, W, 3), or any iterable of (H, W, 3).
        fps: frames a second; GIF keeps hundredths of a second a frame.

    Raises:
        UserError: the path cannot be written.
    """
    import imageio.v3 as imageio

    with atomic_path(path) as temporary:
        imageio.imwrite(
            temporary,
            [np.asarray(frame) for frame in frames],
            extension=".gif",
            duration=1000 / fps,
            loop=0,
        )


def write_frames(folder: str | Path, frames: Iterable[Any], first: int = 0) -> list[Path]:
    """Write every frame as a PNG, ``frame_00000.png`` and so on.

    Args:
        folder: where to; made if missing.
        frames: uint8 (T, H, W, 3) or (T, H, W), or any iterable of such frames.
        first: number of the first frame.

    Returns:
        The written files in order.

    Raises:
        UserError: the folder cannot be written.
    """
    from PIL import Image

    written = []
    for number, frame in enumerate(frames, start=first):
        path = Path(folder) / f"frame_{number:05d}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(np.ascontiguousarray(frame)).save(temporary, format="PNG")
        written.append(path)
    return written


def write_npy(path: str | Path, array: np.ndarray | Tensor) -> None:
    """Write an array as .npy, whole or not at all.

    Args:
        path: where to.
        array: any array; samplers give uint8 (n, T, H, W, 3).

    Raises:
        UserError: the path cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.asarray(array), allow_pickle=False)


def _write_with_pyav(
    path: Path,
    frames: Iterable[Any],
    fps: float,
    sound: Sound | None,
    crf: int,
    keyframe_every: int | None,
) -> None:
    suffix = path.suffix.lower()
    codec = _VIDEO_CODECS[suffix]
    if codec not in av.codecs_available:  # builds of FFmpeg without the GPL parts lack libx264
        logger.warning("this FFmpeg has no %s: %s is written as mpeg4", codec, path.name)
        codec = "mpeg4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        if codec == "mpeg4":
            quantiser = str(max(1, round(crf / 6)))  # crf 18 and quantiser 3 look alike
            stream.options = {"qmin": quantiser, "qmax": quantiser}
        elif codec == "libx264":
            stream.options = {"crf": str(crf), "preset": "veryfast"}  # same size, thrice the speed
        else:
            stream.options = {"crf": str(crf)}
        if keyframe_every is not None:
            stream.codec_context.gop_size = keyframe_every
        audio_stream = None
        if sound is not None:  # streams must be declared before the first packet
            as_it_is = suffix != ".webm" and sound.rate in _AUDIO_RATES
            rate = sound.rate if as_it_is else _SAFE_RATE  # the encoder resamples
            audio_stream = container.add_stream(_AUDIO_CODECS[suffix], rate=rate)
        for frame in frames:
            pixels = _even_sized(np.asarray(frame))
            if not stream.codec_context.is_open:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
        if sound is not None:
            _encode_sound(container, audio_stream, sound)


def _even_sized(frame: np.ndarray) -> np.ndarray:
    """Repeat the last row and column where yuv420p needs an even size."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encode_sound(container: Any, stream: Any, sound: Sound) -> None:
    samples = np.asarray(sound.samples)
    samples = samples[:, None] if samples.ndim == 1 else samples  # (n, channels)
    if samples.dtype != np.int16:
        samples = (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    packed = np.ascontiguousarray(samples).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
    frame.sample_rate = sound.rate
    frame.pts = 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_with_imageio(
    path: Path, frames: Iterable[Any], fps: float, audio: Sound | tuple[np.ndarray, int] | None
) -> None:
    """The writer for machines where PyAV cannot be imported."""
    import imageio.v3 as imageio

    if audio is not None:
        raise UserError("writing sound needs PyAV; pip install av")
    logger.warning("PyAV cannot be imported: video is written by imageio-ffmpeg")
    try:
        pixels = np.stack([_even_sized(np.asarray(frame)) for frame in frames])
        imageio.imwrite(path, pixels, plugin="FFMPEG", fps=fps, macro_block_size=2)
    except ImportError as error:
        raise UserError("writing video needs PyAV (pip install av) or imageio-ffmpeg") from error
