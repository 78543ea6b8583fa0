"""Reading a real clip whose first frames the samples continue."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tats.data.decoding import VIDEO_SUFFIXES, DecodeError, read_video
from tats.data.frame_folders import list_frame_folders
from tats.data.transforms import preprocess
from tats.errors import UserError
from tats.models.vqgan import VQGAN


def prime_codes(args: Namespace, vqgan: VQGAN, latent_shape: tuple[int, int, int]) -> Tensor:
    """Encode the beginning of a real clip.

    Args:
        args: ``prime``, a video, a folder of frames or a .npy of uint8 (T, H, W, 3); and
            ``prime_frames``, how many of its frames to take, 0 for as many as there are up to
            half the video to sample.
        vqgan: encodes them.
        latent_shape: (frames, rows, columns) of the video to sample.

    Returns:
        Codes, int64 (n, rows, columns) with 1 <= n < frames.

    Raises:
        UserError: the clip cannot be read, is too short, or would fill the video.
    """
    n_latents, rows, columns = latent_shape
    rate, row_rate, column_rate = vqgan.downsample
    height, width = rows * row_rate, columns * column_rate
    if height != width:
        raise UserError(f"--prime needs square videos; the model's are {height}x{width}")
    wanted = args.prime_frames or max(n_latents // 2, 1) * rate
    if args.prime_frames and (args.prime_frames % rate or args.prime_frames >= n_latents * rate):
        raise UserError(
            f"--prime_frames got {args.prime_frames}; expected a multiple of {rate} below the "
            f"{n_latents * rate} frames to sample"
        )
    frames = _read(Path(args.prime).expanduser(), wanted)
    n_frames = len(frames) // rate * rate
    if n_frames < (args.prime_frames or rate):
        raise UserError(
            f"--prime {args.prime} has {len(frames)} frames; expected at least "
            f"{args.prime_frames or rate}"
        )
    if vqgan.args.image_channels != 3:
        raise UserError(f"--prime needs a VQGAN of colour; got {vqgan.args.image_channels} channel")
    video = preprocess(frames[:n_frames], height)[None]  # (1, C, T, H, W)
    parameter = next(vqgan.parameters())
    with torch.no_grad():
        codes = vqgan.encode(video.to(parameter))
    return codes[0]


def _read(path: Path, n_frames: int) -> np.ndarray:
    """Read up to ``n_frames`` frames of a clip, uint8 (T, H, W, 3)."""
    try:
        if path.is_dir():
            (files, *_) = list_frame_folders(path)
            return np.stack([_picture(file) for file in files[:n_frames]])
        if path.suffix == ".npy":
            clip = np.load(path, mmap_mode="r", allow_pickle=False)
            if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[-1] != 3:
                raise UserError(
                    f"--prime {path} holds {clip.dtype} {clip.shape}; expected uint8 (T, H, W, 3)"
                )
            return np.array(clip[:n_frames])
        if path.suffix.lower() not in VIDEO_SUFFIXES and path.is_file():
            raise UserError(
                f"--prime got {path}; expected a folder of frames, .npy or one of "
                f"{', '.join(VIDEO_SUFFIXES)}"
            )
        return read_video(path, n_frames)
    except (OSError, ValueError, DecodeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"--prime {path} cannot be read ({error})") from error


def _picture(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))
