"""Spectrograms: how they are computed, read, cut to clips, and matched with their videos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tats.data import StftDataset, VideoData
from tats.data.clips import ClipKey
from tats.data.decoding import DecodeError
from tats.data.sound import SAMPLE_RATE, cut_sound, read_sound, spectrogram
from tats.data.stft import read_stft, stft_clip
from tats.errors import UserError
from tats.video_io import write_video
from tests.small_data import data_args
from tests.small_sound import (
    drum_paths,
    frame_stft,
    tone,
    write_drums,
    write_pickle,
    write_tone_video,
)


@pytest.fixture(scope="module")
def drums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drums(tmp_path_factory.mktemp("drums"))


def open_split(root: Path, **options: object) -> StftDataset:
    settings = {"train": True, "sequence_length": 16, "resolution": 16, "show_progress": False}
    return StftDataset(root=root, **{**settings, **options})  # type: ignore[arg-type]


# --- clips ------------------------------------------------------------------------------------


def test_a_clip_maps_zero_and_one_to_the_ends_of_its_range():
    array = np.zeros((20, 45, 17))
    array[5:] = 1
    clip = stft_clip(array, 0)
    assert clip.shape == (1, 16, 64, 16) and clip.dtype == torch.float32
    assert (clip[0, :5] == -1).all() and (clip[0, 5:] == 1).all()


def test_a_clip_is_the_window_asked_for_up_to_the_last_one():
    clip = stft_clip(frame_stft(20), 4)
    values = (clip[0, :, 0, 0] + 1) / 2 * 100
    assert values.round().tolist() == list(range(4, 20))
    with pytest.raises(UserError, match="20 frames; expected at least 21"):
        stft_clip(frame_stft(20), 5)


def test_frequencies_and_columns_keep_their_axes():
    array = np.zeros((16, 45, 17))
    array[:, :10] = 1  # low frequencies
    clip = stft_clip(array, 0)
    assert (clip[0, :, :12] == 1).all() and (clip[0, :, 20:] == -1).all()


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((90, 45)), "shape"),
        (np.zeros((90, 17, 45)), "shape"),
        (np.zeros((0, 45, 17)), "shape"),
        (np.zeros((90, 45, 17), dtype=complex), "complex"),
        (np.full((90, 45, 17), 1.5), "values 1.5 to 1.5"),
        (np.full((90, 45, 17), -0.1), "values -0.1 to -0.1"),
        (np.full((90, 45, 17), np.nan), "values nan"),
    ],
)
def test_an_array_of_another_shape_or_range_is_refused_in_one_line(array, said, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        stft_clip(array, 0)
    assert "\n" not in str(caught.value)
    write_pickle(tmp_path / "a.pickle", array)
    with pytest.raises(UserError, match=r"a\.pickle"):
        read_stft(tmp_path / "a.pickle")


# --- files ------------------------------------------------------------------------------------


def test_pickle_npy_and_npz_hold_the_same_array(tmp_path):
    array = frame_stft()
    write_pickle(tmp_path / "a.pickle", array)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", stft=array)
    for name in ("a.pickle", "a.npy", "a.npz"):
        assert np.array_equal(read_stft(tmp_path / name), array)


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path):
    write_pickle(tmp_path / "bad.pickle", _Hostile(tmp_path / "executed"))
    with pytest.raises(UserError, match=r"bad\.pickle"):
        read_stft(tmp_path / "bad.pickle")
    np.save(tmp_path / "bad.npy", np.array([_Hostile(tmp_path / "executed")]), allow_pickle=True)
    with pytest.raises(UserError, match=r"bad\.npy"):
        read_stft(tmp_path / "bad.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["a.pickle", "a.npy", "a.npz"])
def test_a_damaged_or_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=name):
        read_stft(tmp_path / name)
    (tmp_path / name).write_bytes(b"this is no array")
    with pytest.raises(UserError, match=name):
        read_stft(tmp_path / name)


def test_a_pickle_of_something_else_is_refused(tmp_path):
    write_pickle(tmp_path / "a.pickle", {"stft": frame_stft()})
    with pytest.raises(UserError, match="holds a dict"):
        read_stft(tmp_path / "a.pickle")


# --- dataset ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folders", "zip"])
def test_both_layouts_give_video_and_sound_of_the_same_frames(tmp_path, layout):
    write_drums(tmp_path, layout=layout)
    dataset = open_split(tmp_path)
    assert len(dataset) == 2
    for epoch in range(4):
        item = dataset[ClipKey(1, epoch)]
        assert item["video"].shape == (3, 16, 16, 16) and item["stft"].shape == (1, 16, 64, 16)
        start = int(item["start"])
        frames = ((item["stft"][0, :, 0, 0] + 1) / 2 * 100).round().int().tolist()
        assert frames == list(range(start, start + 16))
        greys = ((item["video"].mean(dim=(0, 2, 3)) + 0.5) * 255 / 20).round().int().tolist()
        assert greys == [frame % 12 for frame in frames]


def test_the_stft_folder_itself_will_do(drums):
    assert len(open_split(drums / "stft", train=False)) == 2


def test_windows_depend_on_seed_epoch_and_clip_alone_and_reach_the_end(drums):
    def starts(seed: int) -> list[int]:
        dataset = open_split(drums, seed=seed)
        return [int(dataset[ClipKey(0, epoch)]["start"]) for epoch in range(60)]

    assert starts(1) == starts(1) != starts(2)
    assert set(starts(1)) == set(range(24 - 16 + 1))


def test_the_data_module_gives_batches_of_video_and_sound(drums):
    data = VideoData(data_args(drums, stft_data=True, sequence_length=16))
    batch = next(iter(data.train_dataloader()))
    assert batch["stft"].shape == (2, 1, 16, 64, 16) and batch["video"].shape == (2, 3, 16, 16, 16)
    assert len(next(iter(data.val_dataloader()))["video"]) == 2


def test_a_missing_mate_is_named(tmp_path):
    write_drums(tmp_path)
    stft, video = drum_paths(tmp_path, "folders", "train", "clip1")
    kept = video.read_bytes()
    video.unlink()
    with pytest.raises(UserError, match=r"stft/train/clip1\.pickle has no mate .* \(1 such"):
        open_split(tmp_path)
    video.write_bytes(kept)
    stft.unlink()
    with pytest.raises(UserError, match=r"video/train/clip1\.mp4 has no mate"):
        open_split(tmp_path)


def test_a_folder_of_another_layout_is_told_what_is_expected(tmp_path):
    (tmp_path / "train" / "cats").mkdir(parents=True)
    with pytest.raises(UserError, match="expected stft/train/ beside video/train/"):
        open_split(tmp_path)
    for folder in ("stft/train", "video/train"):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match="are empty"):
        open_split(tmp_path)


def test_a_wrong_spectrogram_ends_reading_with_its_name(tmp_path):
    write_drums(tmp_path)
    stft, _ = drum_paths(tmp_path, "folders", "train", "clip0")
    write_pickle(stft, frame_stft() + 5)
    with pytest.raises(UserError, match=r"clip0\.pickle has values 5 to"):
        open_split(tmp_path)[0]
    write_pickle(stft, frame_stft(10))
    with pytest.raises(UserError, match=r"clip0\.pickle has 10 frames; expected at least 16"):
        open_split(tmp_path)[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"sample_every_n_frames": 2}, "--sample_every_n_frames got 2 with --stft_data"),
        ({"image_folder": True}, "--image_folder cannot be used"),
        ({"text_cond": True}, "--text_cond cannot be used"),
    ],
)
def test_flags_that_do_not_go_with_sound_are_refused(drums, flags, said):
    with pytest.raises(UserError, match=said):
        VideoData(data_args(drums, stft_data=True, sequence_length=16, **flags)).dataset(True)


# --- sound ------------------------------------------------------------------------------------


def test_the_sound_of_a_window_is_that_windows(drums):
    dataset = open_split(drums)
    sound = dataset.sound(1, 4)
    assert len(sound.samples) == 16 * 735 and sound.rate == SAMPLE_RATE
    loudest = np.abs(np.fft.rfft(sound.samples)).argmax() * SAMPLE_RATE / len(sound.samples)
    assert abs(loudest - 880) < 5


def test_a_video_without_sound_is_named_where_sound_is_needed(tmp_path):
    write_tone_video(tmp_path / "silent.mp4", None)
    with pytest.raises(DecodeError, match=r"silent\.mp4: no sound"):
        read_sound(tmp_path / "silent.mp4")
    write_drums(tmp_path)
    _, video = drum_paths(tmp_path, "folders", "train", "clip0")
    write_tone_video(video, None)
    with pytest.raises(UserError, match=r"clip0\.mp4 cannot be read .*expected a video with sound"):
        open_split(tmp_path).sound(0, 0)


def test_sound_survives_a_file_with_its_time_and_pitch(tmp_path):
    silence = np.zeros(735 * 8, np.float32)
    samples = np.concatenate([silence, tone(1000.0, 8).samples, silence])
    video = np.zeros((24, 16, 16, 3), np.uint8)
    write_video(tmp_path / "a.mp4", video, 30, (samples, SAMPLE_RATE))
    read = read_sound(tmp_path / "a.mp4").samples
    loud = np.abs(read[: 24 * 735]).reshape(24, 735).max(axis=1) > 0.2
    assert loud.tolist() == [False] * 8 + [True] * 8 + [False] * 8


def test_sound_of_any_rate_can_be_written(tmp_path):
    rate = 30720  # which no codec takes
    samples = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    write_video(tmp_path / "a.mp4", np.zeros((30, 16, 16, 3), np.uint8), 30, (samples, rate))
    read = read_sound(tmp_path / "a.mp4").samples[:SAMPLE_RATE]
    assert abs(int(np.abs(np.fft.rfft(read)).argmax()) - 1000) <= 1


def test_a_spectrogram_shows_the_tone_at_its_frequency_and_level():
    stft = spectrogram(tone(2505.7, 10).samples)  # bin 10 of 44
    assert stft.shape == (10, 45, 17) and stft.dtype == np.float32
    assert (stft[2:-2].argmax(axis=1) == 10).all()
    # Half amplitude is 6 dB below full scale, of 80 dB in all.
    assert stft[5, 10].mean() == pytest.approx(1 - 6.02 / 80, abs=0.01)
    assert stft[5, 40].max() < 0.4


def test_silence_is_zero_and_full_scale_is_one():
    assert (spectrogram(np.zeros(735 * 3)) == 0).all()
    full = 2 * tone(2505.7, 6).samples
    assert spectrogram(full)[3, 10].max() == pytest.approx(1, abs=0.01)
    assert spectrogram(8 * full).max() == 1


def test_a_frames_spectrogram_does_not_depend_on_what_comes_a_frame_later():
    samples = np.random.default_rng(0).normal(0, 0.1, 735 * 8).astype(np.float32)
    whole, part = spectrogram(samples), spectrogram(samples[: 735 * 5], 5)
    assert np.array_equal(whole[:4], part[:4])
    padded = spectrogram(samples, 10)
    assert padded.shape == (10, 45, 17) and (padded[9] == 0).all()


def test_cut_sound_is_silent_past_the_end():
    sound = cut_sound(tone(440, 4), 3, 2)
    assert len(sound.samples) == 2 * 735
    assert np.abs(sound.samples[:735]).max() > 0.4 and (sound.samples[735:] == 0).all()
