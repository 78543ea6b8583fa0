"""The one video reader: frame-exact windows out of any file FFmpeg can open."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tats.errors import UserError

try:
    import av
except ImportError:  # see _frames_without_pyav
    av = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".mp4", ".webm")
# A seek may land after the wanted frame when frames are stored out of order; no codec in use
# reorders by more than 16 frames.
_SEEK_MARGINS = (0, 16)


class DecodeError(RuntimeError):
    """A video file cannot be read."""


def frame_times(path: str | Path) -> np.ndarray:
    """List when every frame of a video is shown, without decoding it where possible.

    Args:
        path: a video file.

    Returns:
        int64 (n_frames,), strictly increasing, in the stream's own unit of time.

    Raises:
        DecodeError: the file is not a video or holds no frames.
    """
    if av is None:
        times = list(range(sum(1 for _ in _frames_without_pyav(path))))
    else:
        try:
            times = _packet_times(path)
        except (av.error.FFmpegError, IndexError, ValueError) as error:
            raise DecodeError(f"{path}: {error}") from error
    if not times:
        raise DecodeError(f"{path}: no frames")
    return np.array(times, dtype=np.int64)


def frame_rate(path: str | Path) -> float:
    """Tell a video's average frames a second.

    Args:
        path: a video file.

    Raises:
        DecodeError: the file is not a video, or does not say.
    """
    if av is None:
        raise UserError("reading a video's frame rate needs PyAV; pip install av")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise DecodeError(f"{path}: {error}") from error
    if not rate:
        raise DecodeError(f"{path}: no frame rate")
    return float(rate)


def frames_at_rate(
    n_frames: int, file_rate: float, rate: float, start: int, stop: int
) -> np.ndarray:
    """Tell which of a video's frames are shown at the ticks of another rate.

    Args:
        n_frames: frames of the video.
        file_rate: its frames a second.
        rate: ticks a second.
        start: first tick.
        stop: one past the last tick.

    Returns:
        int64 (stop - start,), never falling; after the video's end it is the last frame.
    """
    seconds = np.arange(start, stop) / rate
    shown = np.floor(seconds * file_rate + 1e-6).astype(np.int64)  # 1e-6: exact ticks stay exact
    return np.minimum(shown, n_frames - 1)


def read_frames(
    path: str | Path, times: np.ndarray, start: int, n_frames: int, every: int = 1
) -> np.ndarray:
    """Decode a window of consecutive frames, keeping every ``every``-th.

    Args:
        path: a video file.
        times: what ``frame_times`` returned for it.
        start: number of the first frame, counted from 0 in the order they are shown.
        n_frames: length of the window in frames of the file.
        every: keep frames 0, every, 2 * every, … of the window.

    Returns:
        uint8 (ceil(n_frames / every), H, W, 3).

    Raises:
        DecodeError: the file does not yield all these frames.
    """
    assert start >= 0 and start + n_frames <= len(times), (start, n_frames, len(times))
    wanted = range(start, start + n_frames, every)
    if av is None:
        frames = list(itertools.islice(_frames_without_pyav(path), start, wanted[-1] + 1, every))
        return _stack(path, frames, wanted)
    try:
        for margin in _SEEK_MARGINS:
            if start > margin:
                found = _read_after_seek(path, times, wanted, start - margin)
                if found is not None:
                    return _stack(path, found, wanted)
        with av.open(str(path)) as container:  # the definition of frame-exact: count from the top
            counted = itertools.islice(_decode(container), start, wanted[-1] + 1, every)
            return _stack(path, list(map(_ToPixels(), counted)), wanted)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise DecodeError(f"{path}: {error}") from error


def read_video(path: str | Path, n_frames: int | None = None) -> np.ndarray:
    """Decode a video from its beginning.

    Args:
        path: a video file.
        n_frames: how many frames at most; None for all.

    Returns:
        uint8 (T, H, W, 3).

    Raises:
        DecodeError: the file cannot be read.
    """
    times = frame_times(path)
    return read_frames(path, times, 0, len(times[:n_frames]))


def _read_after_seek(
    path: str | Path, times: np.ndarray, wanted: range, target: int
) -> list[np.ndarray] | None:
    """Seek to the keyframe at or before frame ``target`` and decode on.

    The result is trusted only if every decoded frame carries the very time that comes next in
    ``times``; otherwise (seeking went past the window, the container's times are wrong) it is None.
    """
    frames, pixels = [], _ToPixels()
    with av.open(str(path)) as container:
        try:
            container.seek(int(times[target]), stream=container.streams.video[0], backward=True)
        except av.error.FFmpegError:  # the container has no way to seek
            return None
        position = -1
        for frame in _decode(container):
            if position < 0:
                position = int(np.searchsorted(times, frame.pts)) if frame.pts is not None else -1
                if position < 0 or position > wanted[0]:
                    return None
            else:
                position += 1
            if position >= len(times) or frame.pts != times[position] or frame.is_corrupt:
                return None
            if position in wanted:
                frames.append(pixels(frame))
            if position == wanted[-1]:
                return frames
    return None


def _packet_times(path: str | Path) -> list[int]:
    with av.open(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        times = [packet.pts for packet in packets if packet.size > 0 and not packet.is_discard]
    if None not in times and len(set(times)) == len(times):
        return sorted(times)
    # The container does not say: plain numbers make read_frames count the frames from the top.
    with av.open(str(path)) as container:
        return list(range(sum(1 for _ in _decode(container))))


def _decode(container: Any) -> Iterator[Any]:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # the loader's workers are the parallelism
    return container.decode(stream)


class _ToPixels:
    """Turns the frames of one file into uint8 (H, W, 3).

    One converter per file, and one thread: setting either up costs ten times the conversion of a
    small frame.
    """

    def __init__(self) -> None:
        self._convert = av.video.reformatter.VideoReformatter().reformat
        has_threads = int(av.__version__.split(".")[0]) >= 17
        self._options = {"threads": 1} if has_threads else {}

    def __call__(self, frame: Any) -> np.ndarray:
        return self._convert(frame, format="rgb24", **self._options).to_ndarray()


def _stack(path: str | Path, frames: list[np.ndarray], wanted: range) -> np.ndarray:
    if len(frames) < len(wanted):
        raise DecodeError(f"{path}: got {len(frames)} of {len(wanted)} frames at {wanted[0]}")
    if len({frame.shape for frame in frames}) > 1:
        raise DecodeError(f"{path}: the frame size changes within the file")
    return np.stack(frames)


def _frames_without_pyav(path: str | Path) -> Iterator[np.ndarray]:
    """All frames from the first on, by OpenCV or imageio-ffmpeg, where PyAV cannot be imported."""
    try:
        import cv2
    except ImportError:
        return _imageio_frames(path)
    return _opencv_frames(cv2, path)


def _opencv_frames(cv2: Any, path: str | Path) -> Iterator[np.ndarray]:
    _say_reader("OpenCV")
    capture = cv2.VideoCapture(str(path))
    try:
        while (decoded := capture.read())[0]:
            yield np.ascontiguousarray(decoded[1][..., ::-1])  # BGR to RGB
    finally:
        capture.release()


def _imageio_frames(path: str | Path) -> Iterator[np.ndarray]:
    import imageio.v3 as imageio

    _say_reader("imageio-ffmpeg")
    try:
        yield from imageio.imiter(path, plugin="FFMPEG")
    except ImportError as error:
        raise UserError(
            "reading video needs PyAV (pip install av), OpenCV or imageio-ffmpeg"
        ) from error
    except OSError as error:
        raise DecodeError(f"{path}: {error}") from error


@functools.cache
def _say_reader(name: str) -> None:
    log.warning("PyAV cannot be imported: videos are read by %s, from their first frame", name)
