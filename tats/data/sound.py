"""Sound of video and audio files, and the spectrogram that goes with every video frame.

The recipe: mono at 22,050 Hz, so that a frame at 30 frames/s spans 735 samples; a Hann window of 88
samples (45 frequencies from 0 to 11,025 Hz) every 44 samples from the frame's first one on (17
columns); the magnitude in decibels below a full-scale sine, -80 dB and less as 0 and 0 dB as 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tats.data.decoding import DecodeError
from tats.errors import UserError
from tats.video_io import Sound

try:
    import av
except ImportError:  # reading sound says so
    av = None  # type: ignore[assignment]

SAMPLE_RATE = 22050  # Hz
FRAME_RATE = 30  # video frames a second
SAMPLES_PER_FRAME = SAMPLE_RATE // FRAME_RATE
WINDOW, HOP = 88, 44  # samples
N_COLUMNS = 1 + SAMPLES_PER_FRAME // HOP
FLOOR_DB = -80.0


def read_sound(path: str | Path) -> Sound:
    """Decode the sound of an audio or video file.

    Args:
        path: any file FFmpeg can open.

    Returns:
        Mono float32 samples (n,) in [-1, 1] at ``SAMPLE_RATE``; sample 0 belongs to time 0.

    Raises:
        DecodeError: the file cannot be read or has no sound.
    """
    if av is None:
        raise UserError("reading sound needs PyAV; pip install av")
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise DecodeError(f"{path}: no sound")
            parts, start = _decode_sound(container)
    except (av.error.FFmpegError, OSError, IndexError, ValueError) as error:
        raise DecodeError(f"{path}: {error}") from error
    samples = np.concatenate(parts) if parts else np.empty(0, np.float32)
    if len(samples) == 0:
        raise DecodeError(f"{path}: no sound")
    # A track may begin late, or with samples that are only there for the codec.
    samples = np.pad(samples, (max(start, 0), 0))[max(-start, 0) :]
    return Sound(np.clip(np.nan_to_num(samples), -1, 1), SAMPLE_RATE)


def _decode_sound(container: Any) -> tuple[list[np.ndarray], int]:
    """Decode and resample a container's first audio track; also the sample it starts at."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    parts: list[np.ndarray] = []
    start: int | None = None
    for frame in container.decode(container.streams.audio[0]):
        if start is None:
            start = round((frame.time or 0.0) * SAMPLE_RATE)
        parts += [out.to_ndarray()[0] for out in resampler.resample(frame)]
    if start is not None:
        parts += [out.to_ndarray()[0] for out in resampler.resample(None)]
    return parts, start or 0


def spectrogram(samples: np.ndarray, n_frames: int | None = None) -> np.ndarray:
    """Compute the spectrogram columns of every video frame.

    Args:
        samples: mono, (n,) in [-1, 1], at ``SAMPLE_RATE``.
        n_frames: frames to cover, silent where the sound has ended; default: the whole ones.

    Returns:
        float32 (n_frames, 45, 17) in [0, 1]; a full-scale sine reaches 1, silence is 0.
    """
    n_frames = len(samples) // SAMPLES_PER_FRAME if n_frames is None else n_frames
    half = WINDOW // 2  # a column's window is centred on its sample
    wanted = n_frames * SAMPLES_PER_FRAME
    samples = np.asarray(samples, dtype=np.float32)[: wanted + half]
    padded = np.pad(samples, (half, max(0, wanted + WINDOW - len(samples))))
    starts = SAMPLES_PER_FRAME * np.arange(n_frames)[:, None] + HOP * np.arange(N_COLUMNS)
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[starts]  # (n, 17, 88)
    shape = np.hanning(WINDOW + 1)[:-1].astype(np.float32)
    magnitude = np.abs(np.fft.rfft(windows * shape, axis=-1)) / (shape.sum() / 2)
    decibels = 20 * np.log10(np.maximum(magnitude, 10 ** (FLOOR_DB / 20)))
    unit = np.clip(1 - decibels / FLOOR_DB, 0, 1)  # (n, 17, 45)
    return np.ascontiguousarray(unit.swapaxes(1, 2), dtype=np.float32)


def cut_sound(sound: Sound, start: int, n_frames: int) -> Sound:
    """Cut out the sound of some video frames, silent where it has ended.

    Args:
        sound: mono, at ``SAMPLE_RATE``.
        start: first frame.
        n_frames: number of frames, at ``FRAME_RATE``.
    """
    assert sound.rate == SAMPLE_RATE
    first, last = start * SAMPLES_PER_FRAME, (start + n_frames) * SAMPLES_PER_FRAME
    samples = sound.samples[first:last]
    return Sound(np.pad(samples, (0, last - first - len(samples))), sound.rate)
