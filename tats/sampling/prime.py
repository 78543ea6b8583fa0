"""A real clip whose first frames the samples continue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from tats.data.decoding import VIDEO_SUFFIXES, DecodeError, frame_times, read_frames
from tats.data.frame_folders import list_frame_folders
from tats.data.transforms import preprocess
from tats.errors import UserError
from tats.models.vqgan import VQGAN

Frames = UInt8[np.ndarray, "T H W 3"]


@torch.no_grad()
def prime_codes(
    clip: str | Path | Frames | UInt8[Tensor, "T H W 3"],
    n_frames: int | None,
    vqgan: VQGAN,
    latent_shape: tuple[int, int, int],
) -> Int[Tensor, "t h w"]:
    """Encode the beginning of a real clip.

    Args:
        clip: a video, a folder of frames, a .npy of frames, or frames.
        n_frames: how many of its frames to take, a multiple of the VQGAN's downsampling in time;
            None for as many as there are, up to half the video to sample.
        vqgan: encodes them.
        latent_shape: (frames, rows, columns) of the video to sample.

    Returns:
        Codes of at least one latent frame, and of fewer than the whole video has.

    Raises:
        UserError: the clip cannot be read, is too short, or would fill the video.
    """
    n_latents, rows, columns = latent_shape
    rate, row_rate, column_rate = vqgan.downsample
    height, width = rows * row_rate, columns * column_rate
    if height != width:
        raise UserError(f"--prime needs square videos; the model's are {height}x{width}")
    if vqgan.args.image_channels != 3:
        raise UserError(f"--prime needs a VQGAN of colour; got {vqgan.args.image_channels} channel")
    if n_latents < 2:
        raise UserError(
            f"--prime needs a video of more than {rate} frames: the clip's first {rate} would be "
            "all of it"
        )
    if n_frames is not None and (n_frames % rate or not 0 < n_frames < n_latents * rate):
        raise UserError(
            f"--prime_frames got {n_frames}; expected a multiple of {rate} below the "
            f"{n_latents * rate} frames to sample"
        )
    frames = _frames(clip, n_frames or n_latents // 2 * rate)
    n_whole = len(frames) // rate * rate
    if n_whole < (n_frames or rate):
        shown = clip if isinstance(clip, (str, Path)) else "the clip"
        raise UserError(
            f"--prime {shown} has {len(frames)} frames; expected at least {n_frames or rate}"
        )
    video = preprocess(frames[:n_whole], height)[None]  # (1, C, T, H, W)
    return vqgan.encode(video.to(vqgan.codebook.embeddings.device))[0]


def _frames(clip: str | Path | Frames | UInt8[Tensor, "T H W 3"], n_frames: int) -> Frames:
    """Give up to ``n_frames`` frames of a clip."""
    if not isinstance(clip, (str, Path)):
        return _checked(np.asarray(clip), "prime")[:n_frames]
    path = Path(clip).expanduser()
    try:
        if path.is_dir():
            (files, *_) = list_frame_folders(path)
            return np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files[:n_frames]])
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return np.array(_checked(array, f"--prime {path}")[:n_frames])
        if path.suffix.lower() not in VIDEO_SUFFIXES and path.is_file():
            raise UserError(
                f"--prime got {path}; expected a folder of frames, .npy or one of "
                f"{', '.join(VIDEO_SUFFIXES)}"
            )
        times = frame_times(path)
        return read_frames(path, times, 0, min(n_frames, len(times)))
    except UserError:
        raise
    except (OSError, ValueError, DecodeError) as error:
        raise UserError(f"--prime {path} cannot be read ({error})") from error


def _checked(array: np.ndarray, name: str) -> Frames:
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise UserError(f"{name} holds {array.dtype} {array.shape}; expected uint8 (T, H, W, 3)")
    return array
