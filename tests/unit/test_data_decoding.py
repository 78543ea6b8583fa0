"""The video reader gives exactly the frames it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tats.data import decoding
from tats.data.decoding import DecodeError, frame_times, read_frames, read_video

av = pytest.importorskip("av")

# (file name, codec, options): with and without frames stored out of order, long and short groups
ENCODINGS = {
    "mp4 with B-frames": ("clip.mp4", "libx264", {"bf": "3", "g": "12"}),
    "mp4 with open groups": ("clip.mp4", "libx264", {"g": "8", "x264-params": "open-gop=1"}),
    "mp4 with one keyframe": ("clip.mp4", "libx264", {"g": "250"}),
    "avi": ("clip.avi", "mpeg4", {"g": "12"}),
    "avi with B-frames": ("clip.avi", "mpeg4", {"bf": "2", "g": "12", "qmax": "2"}),
    "avi with wrong times": ("clip.avi", "libx264", {"bf": "3", "g": "12"}),
    "webm": ("clip.webm", "libvpx-vp9", {"g": "12"}),
}
N_FRAMES = 40


def encode(path: Path, codec: str, options: dict[str, str], n_frames: int = N_FRAMES) -> None:
    """Write frames whose grey level is 6 times their number."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        stream.options = options
        for number in range(n_frames):
            frame = np.full((16, 32, 3), 6 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(params=ENCODINGS, ids=lambda name: name.replace(" ", "_"))
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, codec, options = ENCODINGS[request.param]
    encode(tmp_path / name, codec, options)
    return tmp_path / name


def test_every_window_holds_exactly_its_frames(video: Path) -> None:
    times = frame_times(video)
    assert len(times) == N_FRAMES
    whole = read_video(video)
    levels = whole.mean(axis=(1, 2, 3))
    assert np.abs(levels - 6 * np.arange(N_FRAMES)).max() < 3
    for start in range(0, N_FRAMES - 7):
        assert np.array_equal(read_frames(video, times, start, 1), whole[start : start + 1])
        window = read_frames(video, times, start, 7, every=3)
        assert np.array_equal(window, whole[start : start + 7 : 3])


def test_seeking_saves_decoding_all_frames_before_the_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    encode(path, "libx264", {"g": "4"})
    times, seen, decode = frame_times(path), [], decoding._decode

    def count(container: Any) -> Iterator[Any]:
        for frame in decode(container):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(decoding, "_decode", count)
    read_frames(path, times, N_FRAMES - 2, 2)
    assert len(seen) <= 8


def test_damaged_and_foreign_files_raise_decode_errors(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.avi").write_bytes(b"")
    encode(tmp_path / "whole.mp4", "libx264", {})
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:-400])
    for name in ("text.mp4", "empty.avi", "cut.mp4", "missing.mp4"):
        with pytest.raises(DecodeError, match=name):
            frame_times(tmp_path / name)


def test_a_window_that_is_no_longer_in_the_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    encode(path, "mpeg4", {})
    times = frame_times(path)
    encode(path, "mpeg4", {}, n_frames=10)
    with pytest.raises(DecodeError, match=r"got 0 of 4|got 2 of 4"):
        read_frames(path, times, 8, 4)


@pytest.mark.parametrize("reader", ["cv2", "imageio_ffmpeg"])
def test_other_readers_take_over_where_pyav_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    pytest.importorskip(reader)
    path = tmp_path / "clip.mp4"
    encode(path, "libx264", {"bf": "3"})
    expected = read_frames(path, frame_times(path), 5, 6, every=2)
    monkeypatch.setattr(decoding, "av", None)
    if reader != "cv2":
        monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    times = frame_times(path)
    assert len(times) == N_FRAMES
    window = read_frames(path, times, 5, 6, every=2)
    assert np.abs(window.astype(int) - expected).max() <= 3


def test_frames_of_other_sizes_within_a_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [np.zeros((2, 2, 3), np.uint8), np.zeros((4, 2, 3), np.uint8)]
    monkeypatch.setattr(decoding, "av", None)
    monkeypatch.setattr(decoding, "_frames_without_pyav", lambda path: iter(frames))
    with pytest.raises(DecodeError, match="size changes"):
        read_frames("clip.mp4", np.arange(2), 0, 2)


def test_after_a_seek_frames_are_trusted_only_if_none_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    encode(path, "libx264", {"g": "12"})
    times = frame_times(path)
    assert decoding._read_after_seek(path, times, range(18, 20), 18) is not None
    with_a_frame_that_never_comes = np.sort(np.append(times, times[15] + 1))
    assert decoding._read_after_seek(path, with_a_frame_that_never_comes, range(19, 21), 19) is None
