"""Samples conditioned on a sound or a text: where the condition comes from, and what is planned."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tats.data.decoding import (
    DecodeError,
    frame_rate,
    frame_times,
    frames_at_rate,
    read_frames,
)
from tats.data.sound import FRAME_RATE, cut_sound, read_sound, spectrogram
from tats.data.stft import StftDataset, stft_clip
from tats.data.transforms import preprocess
from tats.errors import UserError
from tats.models.transformer import Net2NetTransformer
from tats.randomness import item_generator
from tats.sampling.draw import TokenFilter
from tats.sampling.pixels import FrameDecoder
from tats.sampling.samplers import prepare_gpt
from tats.sampling.videos import Level, VideoSampler
from tats.sampling.windows import whole
from tats.text import default_tokenizer, tokenize
from tats.video_io import Sound, to_uint8, video_grid, write_video

log = logging.getLogger(__name__)

ShapeTHW = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class GivenLevel(Level):
    """A transformer's share of a canvas, with a condition of its own for every sample.

    Args:
        condition_of: gives samples' condition tokens (B, L).
        known_of: gives the codes (B, n) samples begin with; None for none.
    """

    condition_of: Callable[[Sequence[int]], Tensor]
    known_of: Callable[[Sequence[int]], Tensor] | None = None

    def condition(self, indices: Sequence[int]) -> Tensor:
        """Condition tokens (B, L) of some samples."""
        return self.condition_of(indices)

    def write(self, codes: Tensor, indices: Sequence[int], seeds: Sequence[int]) -> Tensor:
        """Write this level's part of a canvas of codes (B, N), -1 where unknown."""
        if self.known_of is not None:
            known = self.known_of(indices).to(codes)
            codes = torch.cat([known, codes[:, known.shape[1] :]], dim=1)
        return super().write(codes, indices, seeds)


def _sampler(args: Namespace, model: Net2NetTransformer, level: GivenLevel) -> VideoSampler:
    assert model.first_stage_model is not None, "samplers load the VQGAN"
    return VideoSampler(
        levels=(level,),
        decoder=FrameDecoder(model.first_stage_model),
        latent_shape=model.latent_shape,
        seed=args.seed,
    )


def _check_kind(model: Net2NetTransformer, kind: str) -> None:
    found = model.conditioner.batch_key or "nothing"
    if found != kind:
        raise UserError(
            f"--gpt_ckpt got a model conditioned on {found}; expected one trained with "
            f"--cond_stage_key {kind}"
        )


def clip_shape(model: Net2NetTransformer) -> ShapeTHW:
    """Frames, height and width of the clips a model samples."""
    assert model.first_stage_model is not None
    t, h, w = (
        cells * rate
        for cells, rate in zip(model.latent_shape, model.first_stage_model.downsample, strict=True)
    )
    return t, h, w


# --- sound ------------------------------------------------------------------------------------


class SoundWindow(NamedTuple):
    """What a sample is conditioned on."""

    name: str  # file and first frame
    stft: Tensor  # (1, T, 64, 16) in [-1, 1]
    sound: Sound
    video: Tensor | None  # (3, T, H, W) in [-0.5, 0.5], what was really seen


class SoundWindows(Protocol):
    """Gives the window of sample 0, 1, 2 …; after the last one the first comes again."""

    def __len__(self) -> int: ...

    def __call__(self, index: int) -> SoundWindow: ...


def sound_windows(args: Namespace, model: Net2NetTransformer) -> SoundWindows:
    """Open what ``--audio`` names, or the test clips of ``--data_path``.

    Raises:
        UserError: the model, the file or the data cannot be used.
    """
    _check_kind(model, "stft")
    n_frames, height, width = clip_shape(model)
    assert height == width, "training clips are square"
    if args.audio:
        return _FileWindows(Path(args.audio).expanduser(), n_frames, height)
    root = Path(args.data_path).expanduser()
    if not root.is_dir():
        raise UserError(
            f"--data_path got {root}, which is no folder; expected the data set's, or --audio"
        )
    dataset = StftDataset(
        root=root, train=False, sequence_length=n_frames, resolution=height, seed=args.seed
    )
    return _TestWindows(dataset)


class _TestWindows:
    """The test clips in turn, each time another part of them."""

    def __init__(self, dataset: StftDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __call__(self, index: int) -> SoundWindow:
        dataset = self.dataset
        turn, item = divmod(index, len(dataset))
        path = dataset.pairs[item].video
        try:
            clip = dataset.clip(item, item_generator(dataset.seed, turn, item))
        except DecodeError as error:
            raise UserError(f"--data_path: {error}; check or remove the file") from error
        start = int(clip["start"])
        return SoundWindow(
            name=f"{path.name} from frame {start}",
            stft=clip["stft"],
            sound=dataset.sound(item, start),
            video=clip["video"],
        )


class _FileWindows:
    """Consecutive windows of one file's sound, and of its pictures if it has some."""

    def __init__(self, path: Path, n_frames: int, resolution: int) -> None:
        self.path, self.n_frames, self.resolution = path, n_frames, resolution
        try:
            self.sound = read_sound(path)
        except DecodeError as error:
            raise UserError(f"--audio: {error}; expected a file with sound") from error
        self.stft = spectrogram(self.sound.samples)
        self.n_windows = len(self.stft) // n_frames
        if self.n_windows == 0:
            seconds = len(self.sound.samples) / self.sound.rate
            raise UserError(
                f"--audio {path} has {seconds:.2f} s of sound; expected at least "
                f"{n_frames / FRAME_RATE:.2f} s, the length of a clip"
            )

    def __len__(self) -> int:
        return self.n_windows

    def __call__(self, index: int) -> SoundWindow:
        start = index % self.n_windows * self.n_frames
        return SoundWindow(
            name=f"{self.path.name} from frame {start}",
            stft=stft_clip(self.stft, start, self.n_frames),
            sound=cut_sound(self.sound, start, self.n_frames),
            video=self._video(start),
        )

    def _video(self, start: int) -> Tensor | None:
        try:
            times, rate = frame_times(self.path), frame_rate(self.path)
            if len(times) < 2:  # a cover picture
                return None
            shown = frames_at_rate(len(times), rate, FRAME_RATE, start, start + self.n_frames)
            first = int(shown[0])
            frames = read_frames(self.path, times, first, int(shown[-1]) - first + 1)
        except DecodeError:  # sound alone
            return None
        return preprocess(frames[shown - first], self.resolution)


def sound_sampler(
    args: Namespace, model: Net2NetTransformer, windows: SoundWindows
) -> VideoSampler:
    """Plan clips conditioned on sound.

    Args:
        args: the audio sampler's flags.
        model: on its device; its GPT can be used by nobody else afterwards.
        windows: gives each sample its sound.

    Raises:
        UserError: the flags do not fit the model.
    """
    _check_kind(model, "stft")
    n_known = _known_latents(args, model)

    def known(indices: Sequence[int]) -> Tensor:
        videos = [windows(index).video for index in indices]
        return torch.cat([_first_codes(model, v, args.prime_frames, n_known) for v in videos])

    level = GivenLevel(
        model=model,
        gpt=prepare_gpt(model, args.weights),
        schedule=whole(torch.Size(model.latent_shape).numel()),
        token_filter=TokenFilter(top_k=args.top_k, top_p=args.top_p),
        condition_of=lambda indices: sound_tokens(model, [windows(i).stft for i in indices]),
        known_of=known if n_known else None,
    )
    return _sampler(args, model, level)


def sound_tokens(model: Net2NetTransformer, stfts: Sequence[Tensor]) -> Tensor:
    """Encode spectrograms, each (1, T, 64, 16), as condition tokens (B, L).

    Raises:
        UserError: the STFT-VQGAN was trained on clips of another length.
    """
    assert model.cond_stage_model is not None
    parameter = next(model.cond_stage_model.parameters())
    tokens = model.encode_to_c(torch.stack(list(stfts)).to(parameter))[1]
    if tokens.shape[1] != model.conditioner.n_tokens:
        raise UserError(
            f"--stft_vqgan_ckpt got a model of {model.cond_stage_model.args.sequence_length} "
            f"frames; expected {stfts[0].shape[1]}, the length of the clips"
        )
    return tokens


def _known_latents(args: Namespace, model: Net2NetTransformer) -> int:
    """How many latent frames ``--prime_frames`` covers whole."""
    assert model.first_stage_model is not None
    rate, n_frames = model.first_stage_model.downsample[0], clip_shape(model)[0]
    if args.prime_frames and not rate <= args.prime_frames < n_frames:
        raise UserError(
            f"--prime_frames got {args.prime_frames}; expected {rate} to {n_frames - 1}: a latent "
            f"frame is {rate} frames, and the clip has {n_frames}"
        )
    return args.prime_frames // rate


@torch.no_grad()
def _first_codes(
    model: Net2NetTransformer, video: Tensor | None, n_frames: int, n_latents: int
) -> Tensor:
    """Encode a clip's first frames without a look at the others; codes (1, n)."""
    if video is None:
        raise UserError(
            "--prime_frames needs real frames, which --audio's file has none of; expected a video "
            "there, or leave --prime_frames out"
        )
    vqgan = model.first_stage_model
    assert vqgan is not None
    given = video[:, :n_frames]  # (C, T, H, W)
    rest = given[:, -1:].expand(-1, -n_frames % vqgan.downsample[0], -1, -1)
    clip = torch.cat([given, rest], dim=1)[None].to(next(vqgan.parameters()))
    codes = vqgan.encode(clip)
    return codes[:, :n_latents].flatten(1)


# --- text -------------------------------------------------------------------------------------


def read_captions(args: Namespace) -> list[str]:
    """Give the captions of ``--text`` or ``--text_file``, at least one.

    Raises:
        UserError: there is none, both are given, or the file cannot be read.
    """
    if (args.text is None) == (args.text_file is None):
        raise UserError("--text or --text_file is missing, or both are given; expected one of them")
    if args.text is not None:
        if not args.text.strip():
            raise UserError("--text is empty; expected a caption, such as 'Mugen jumps up'")
        return [args.text.strip()]
    try:
        content = Path(args.text_file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text_file {args.text_file} cannot be read ({error})") from error
    captions = [line.strip() for line in content.splitlines() if line.strip()]
    if not captions:
        raise UserError(f"--text_file {args.text_file} is empty; expected one caption a line")
    return captions


def text_sampler(
    args: Namespace, model: Net2NetTransformer, captions: Sequence[str]
) -> VideoSampler:
    """Plan clips conditioned on captions, which the samples take in turn.

    Args:
        args: the text sampler's flags.
        model: on its device; its GPT can be used by nobody else afterwards.
        captions: at least one.

    Raises:
        UserError: the flags do not fit the model.
    """
    _check_kind(model, "text")
    tokens = caption_tokens(captions, model.conditioner.n_tokens)
    level = GivenLevel(
        model=model,
        gpt=prepare_gpt(model, args.weights),
        schedule=whole(torch.Size(model.latent_shape).numel()),
        token_filter=TokenFilter(top_k=args.top_k, top_p=args.top_p),
        condition_of=lambda indices: tokens[torch.tensor(indices) % len(tokens)],
    )
    return _sampler(args, model, level)


def caption_tokens(captions: Sequence[str], n_tokens: int) -> Tensor:
    """Tokenize captions to (B, n_tokens), with a notice where one is cut."""
    tokenizer = default_tokenizer()
    for caption in captions:
        length = len(tokenizer.encode(caption)) + 2  # start and end
        if length > n_tokens:
            log.warning(
                "the caption %r has %d tokens; what comes after the first %d is cut off",
                caption[:60] + "…", length, n_tokens,
            )  # fmt: skip
    return tokenize(list(captions), context_length=n_tokens)


# --- files ------------------------------------------------------------------------------------


def write_clips(
    folder: Path,
    clips: np.ndarray,
    indices: Sequence[int],
    *,
    fps: float,
    windows: SoundWindows | None = None,
) -> Path:
    """Write every sample as a video, beside what was really seen and with its sound.

    Args:
        folder: the run's folder; earlier videos of it are removed.
        clips: uint8 (n, T, H, W, 3).
        indices: numbers of the samples.
        fps: frames a second.
        windows: give the sound and the real pictures; None for the samples alone.

    Returns:
        The folder of the videos.
    """
    videos = folder / "videos"
    for old in videos.glob("sample_*.mp4"):
        old.unlink()
    for index, clip in zip(indices, clips, strict=True):
        sound, frames = None, np.asarray(clip)
        if windows is not None:
            window = windows(index)
            sound = window.sound
            if window.video is not None:
                frames = video_grid(np.stack([clip, to_uint8(window.video).numpy()]), nrow=1)
        write_video(videos / f"sample_{index:05d}.mp4", frames, fps, sound)
    return videos
