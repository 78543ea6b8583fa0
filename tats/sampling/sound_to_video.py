"""Samples made from sounds: those of a data set's test clips, or of any file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tats.data.clips import Batch
from tats.data.decoding import DecodeError, frame_rate, frame_times, frames_at_rate, read_frames
from tats.data.sound import FRAME_RATE, cut_sound, read_sound, spectrogram
from tats.data.stft import StftDataset, stft_clip
from tats.data.transforms import preprocess
from tats.errors import UserError
from tats.models.transformer import Net2NetTransformer
from tats.paths import file_sha256
from tats.randomness import item_generator
from tats.sampling.passes import Beginning, Given
from tats.video_io import Sound, to_uint8, video_grid

WINDOWS_KEPT = 64  # those used last: a batch needs its windows twice, for condition and beginning


class SoundWindow(Protocol):
    """A clip's length of sound; each part is read when it is first asked for, and only once."""

    @property
    def stft(self) -> Float[Tensor, "1 T 64 16"]:
        """Spectrogram in [-1, 1]."""

    @property
    def sound(self) -> Sound:
        """What is heard."""

    @property
    def video(self) -> Float[Tensor, "3 T H W"] | None:
        """The real frames, in [-0.5, 0.5]; None where there are none."""


class SoundSource(Protocol):
    """Gives every sample its window of sound."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the windows, as plain values."""

    def __len__(self) -> int:
        """Count the windows; sample i takes window i modulo this, or another part of it."""

    def describe(self, sample: int) -> dict[str, Any]:
        """Say which window a sample has, without reading it."""

    @property
    def window(self) -> Callable[[int], SoundWindow]:
        """Opens a sample's window; those used last are kept."""


class _HeldOutClip:
    """A window of a test clip, read from its video and spectrogram files."""

    def __init__(self, dataset: StftDataset, item: int, turn: int) -> None:
        self._dataset, self._item, self._turn = dataset, item, turn

    @functools.cached_property
    def _clip(self) -> Batch:
        generator = item_generator(self._dataset.seed, self._turn, self._item)
        try:
            return self._dataset.clip(self._item, generator)
        except DecodeError as error:
            raise UserError(f"--data_path: {error}; check or remove the file") from error

    @property
    def stft(self) -> Tensor:
        return self._clip["stft"]

    @property
    def video(self) -> Tensor:
        return self._clip["video"]

    @functools.cached_property
    def sound(self) -> Sound:
        return self._dataset.sound(self._item, int(self._clip["start"]))


class HeldOutClips:
    """The sounds of a data set's test clips in turn; every round takes another part of each.

    Args:
        root: the data set's folder.
        n_frames: frames of a window.
        resolution: side of the clips in pixels.
        seed: of the parts.

    Raises:
        UserError: the folder cannot be used.
    """

    def __init__(self, root: Path, *, n_frames: int, resolution: int, seed: int) -> None:
        if not root.is_dir():
            raise UserError(
                f"--data_path got {root}, which is no folder; expected the data set's, or --audio"
            )
        self._dataset = StftDataset(
            root=root, train=False, sequence_length=n_frames, resolution=resolution, seed=seed
        )
        self.window = functools.lru_cache(WINDOWS_KEPT)(self._open)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The clips by their contents, in order, and the seed of their parts."""
        clips = [[file_sha256(path) for path in pair] for pair in self._dataset.pairs]
        return {"test_clips": clips, "seed_of_parts": self._dataset.seed}

    def __len__(self) -> int:
        return len(self._dataset)

    def describe(self, sample: int) -> dict[str, Any]:
        turn, item = divmod(sample, len(self))
        return {"sound": self._dataset.pairs[item].video.name, "turn": turn}

    def _open(self, sample: int) -> SoundWindow:
        turn, item = divmod(sample, len(self))
        return _HeldOutClip(self._dataset, item, turn)


class _FilePart:
    """Some frames' length of a file's sound."""

    def __init__(self, file: SoundFile, start: int) -> None:
        self._file, self._start = file, start

    @functools.cached_property
    def stft(self) -> Tensor:
        return stft_clip(self._file.stft, self._start, self._file.n_frames)

    @functools.cached_property
    def sound(self) -> Sound:
        return cut_sound(self._file.sound, self._start, self._file.n_frames)

    @functools.cached_property
    def video(self) -> Tensor | None:
        path, start, stop = self._file.path, self._start, self._start + self._file.n_frames
        try:
            times, rate = frame_times(path), frame_rate(path)
            if len(times) < 2:  # a cover picture
                return None
            shown = frames_at_rate(len(times), rate, FRAME_RATE, start, stop)
            first = int(shown[0])
            frames = read_frames(path, times, first, int(shown[-1]) - first + 1)
        except DecodeError:  # sound alone
            return None
        return preprocess(frames[shown - first], self._file.resolution)


class SoundFile:
    """Consecutive windows of one file's sound, and of its pictures if it has some.

    Args:
        path: a sound or video file.
        n_frames: frames of a window.
        resolution: side of the pictures in pixels.

    Raises:
        UserError: it has no sound, or less than a window of it.
    """

    def __init__(self, path: Path, *, n_frames: int, resolution: int) -> None:
        self.path, self.n_frames, self.resolution = path, n_frames, resolution
        try:
            self.sound = read_sound(path)
        except DecodeError as error:
            raise UserError(f"--audio: {error}; expected a file with sound") from error
        self.stft = spectrogram(self.sound.samples)
        self._n_windows = len(self.stft) // n_frames
        if self._n_windows == 0:
            seconds = len(self.sound.samples) / self.sound.rate
            raise UserError(
                f"--audio {path} has {seconds:.2f} s of sound; expected at least "
                f"{n_frames / FRAME_RATE:.2f} s, the length of a clip"
            )
        self.identity = {"sound_sha256": file_sha256(path)}
        self.window = functools.lru_cache(WINDOWS_KEPT)(self._open)

    def __len__(self) -> int:
        return self._n_windows

    def _start(self, sample: int) -> int:
        return sample % len(self) * self.n_frames

    def describe(self, sample: int) -> dict[str, Any]:
        return {"sound": self.path.name, "first_frame": self._start(sample)}

    def _open(self, sample: int) -> SoundWindow:
        return _FilePart(self, self._start(sample))


def sounds(source: SoundSource) -> Given:
    """Samples made from sounds, shown beside the real frames.

    Args:
        source: gives samples their windows.
    """

    def tokens(model: Net2NetTransformer, samples: Sequence[int]) -> Tensor:
        return sound_tokens(model, [source.window(sample).stft for sample in samples])

    def present(sample: int, clip: UInt8[np.ndarray, "T H W 3"]) -> tuple[np.ndarray, Sound]:
        window = source.window(sample)
        if window.video is not None:
            clip = video_grid(np.stack([clip, to_uint8(window.video).numpy()]), nrow=1)
        return clip, window.sound

    return Given(
        tokens=tokens,
        describe=source.describe,
        identity=lambda: source.identity,
        frame_rate=FRAME_RATE,
        present=present,
    )


def sound_tokens(
    model: Net2NetTransformer, stfts: Sequence[Float[Tensor, "1 T 64 16"]]
) -> Int[Tensor, "B L"]:
    """Encode spectrograms as condition tokens.

    Raises:
        UserError: the STFT-VQGAN was trained on clips of another length.
    """
    assert model.cond_stage_model is not None
    device = model.cond_stage_model.codebook.embeddings.device
    tokens = model.conditioner.encode(torch.stack(list(stfts)).to(device))
    if tokens.shape[1] != model.conditioner.n_tokens:
        raise UserError(
            f"--stft_vqgan_ckpt got a model of {model.cond_stage_model.args.sequence_length} "
            f"frames; expected {stfts[0].shape[1]}, the length of the clips"
        )
    return tokens


def first_codes(
    model: Net2NetTransformer,
    source: SoundSource,
    n_frames: int,
) -> tuple[Beginning, int]:
    """Let samples begin with the first real frames.

    Args:
        model: whose VQGAN encodes them.
        source: gives samples their windows.
        n_frames: frames to keep; what does not fill a latent frame is left to the model.

    Returns:
        The beginning, and how many codes it has.
    """
    vqgan = model.first_stage_model
    assert vqgan is not None
    n_latents = n_frames // vqgan.downsample[0]

    @torch.no_grad()
    def codes(sample: int) -> Tensor:
        video = source.window(sample).video
        if video is None:
            raise UserError(
                "--prime_frames needs real frames, which --audio's file has none of; expected a "
                "video there, or leave --prime_frames out"
            )
        # The codes must not depend on the frames that are to be sampled.
        given = video[:, :n_frames]  # (C, T, H, W)
        rest = given[:, -1:].expand(-1, -n_frames % vqgan.downsample[0], -1, -1)
        clip = torch.cat([given, rest], dim=1)[None].to(vqgan.codebook.embeddings.device)
        return vqgan.encode(clip)[0, :n_latents].flatten()

    def beginning(samples: Sequence[int]) -> Tensor:
        return torch.stack([codes(sample) for sample in samples])

    _, rows, columns = model.latent_shape
    return beginning, n_latents * rows * columns
