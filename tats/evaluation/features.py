"""From uint8 clips to I3D features, a few clips at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from tats.errors import UserError
from tats.evaluation.i3d import FRAME_SIZE, MIN_FRAMES

Array = Tensor | np.ndarray
Clips = UInt8[Array, "B T H W 3"]


class I3DFeatures:
    """Turns clips into the features that FVD and KVD compare."""

    def __init__(self, i3d: nn.Module, *, clips_per_pass: int = 4) -> None:
        """Wrap a network.

        Args:
            i3d: what ``load_i3d`` returns, on the device to compute on.
            clips_per_pass: clips that go through the network together; bounds the memory. On a
                CPU, 2 to 8 are about equally fast and 1 is much slower.
        """
        self.i3d = i3d
        self.clips_per_pass = clips_per_pass

    @torch.inference_mode()
    def __call__(self, clips: Clips) -> Float[Tensor, "B 400"]:
        """Compute the features of a batch.

        Args:
            clips: T >= 9, any H and W.

        Returns:
            float32, on the CPU.

        Raises:
            UserError: another shape or type.
        """
        clips = _checked(clips)
        weight = next(self.i3d.parameters(), None)  # none where TorchScript froze them
        device = torch.device("cpu") if weight is None else weight.device
        parts = clips.split(self.clips_per_pass)
        # TF32 convolutions move the logits by a thousandth: too much for a metric to compare.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = [self.i3d(preprocess(part.to(device))).float().cpu() for part in parts]
        return torch.cat(features)  # (B, 400)

    def collect(
        self, batches: Iterable[Clips], n_clips: int | None = None, *, description: str = ""
    ) -> Float[Tensor, "n 400"]:
        """Compute the features of a stream of batches, holding no more than one of them.

        Args:
            batches: B may vary.
            n_clips: use exactly the first ``n_clips`` of the stream; default all.
            description: label of the progress bar; none is shown without it.

        Returns:
            float32, on the CPU, in the order of the stream.

        Raises:
            UserError: the stream ends before ``n_clips``, or a batch has another shape or type.
        """
        features: list[Tensor] = []
        n_done = 0
        with tqdm(total=n_clips, desc=description, unit="clip", disable=not description) as bar:
            for batch in batches:
                if n_clips is not None:
                    batch = batch[: n_clips - n_done]
                features.append(self(batch))
                n_done += len(batch)
                bar.update(len(batch))
                if n_done == n_clips:
                    break
        if n_done == 0 or (n_clips is not None and n_done < n_clips):
            raise UserError(
                f"clips: got only {n_done}; expected {n_clips or 'at least one'}; compare fewer, "
                "or give more"
            )
        return torch.cat(features)  # (n_clips, 400)


def preprocess(clips: UInt8[Tensor, "B T H W 3"]) -> Float[Tensor, "B 3 T 224 224"]:
    """Resize and rescale as the published metric does.

    Returns:
        float32 in [-1, 1]: bilinear, corners not aligned, no antialiasing.
    """
    n_clips = len(clips)
    frames = clips.flatten(0, 1).permute(0, 3, 1, 2).float()  # (B*T, 3, H, W)
    frames = F.interpolate(frames, (FRAME_SIZE, FRAME_SIZE), mode="bilinear", align_corners=False)
    return (frames / 255 * 2 - 1).unflatten(0, (n_clips, -1)).transpose(1, 2)


def _checked(clips: Array) -> UInt8[Tensor, "B T H W 3"]:
    clips = torch.as_tensor(clips)
    if clips.dtype != torch.uint8 or clips.dim() != 5 or clips.shape[-1] != 3 or not len(clips):
        raise UserError(
            f"clips: got {clips.dtype} {tuple(clips.shape)}; expected uint8 (B, T, H, W, 3)"
        )
    if clips.shape[1] < MIN_FRAMES:
        raise UserError(
            f"clips: got {clips.shape[1]} frames each; expected at least {MIN_FRAMES}, the fewest "
            "that FVD's network takes"
        )
    return clips
