"""Reading files of tensors of any origin: checked before they are read, and never executed.

Every such file, a checkpoint, a network's weights or somebody's arrays, is read by ``read_file``.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tats.errors import UserError
from tats.weights.pickles import MAX_BYTES, restricted_unpickle

SLIM_SUFFIX = ".safetensors"
# Above this a checkpoint's structure (names, settings, no weights) is not one of ours: a model of
# 48 layers with its optimiser states takes less than a thirtieth.
LARGEST_STRUCTURE_BYTES = 1 << 24
MAX_PROGRAM_BYTES = 1 << 24
_ZIP = b"PK\x03\x04"
_LEGACY_TORCH = b"\x8a\x0al\xfc\x9cF\xf9"  # torch.save before torch 1.6
# In a serialized program: torch.save, torch.from_file, and operators of other libraries.
_TOUCHES_FILES = re.compile(
    rb"\b(?:save|from_file)\s*\(|\bops\s*\.\s*(?!\s|prim\b|aten\b)\w+\s*\.\s*\w+"
)
_NUMBERS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


class _DroppedCallbackState:
    """Stands in for a callback class that Lightning ≤ 1.4 used as a dictionary key."""


# Everything a torch file may name besides tensors and plain containers. Building any of these
# runs no code of the file's choosing.
_ALLOWED_GLOBALS: list[Any] = [
    argparse.Namespace,
    (_DroppedCallbackState, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]


def read_file(path: str | Path, *, flag: str = "", mapped: bool = True) -> Any:
    """Read a safetensors, torch or npz file, or a pickle of numpy arrays.

    Args:
        path: the file; the first bytes, not the name, tell torch files from pickles.
        flag: the flag or argument the path came from, for messages.
        mapped: leave the tensors in the file until they are used, where its format allows.

    Returns:
        What the file holds: CPU tensors or arrays in plain containers.

    Raises:
        UserError: the file is missing, damaged, or holds anything else.
    """
    file = Path(path)
    try:
        return _read(file, mapped)
    except UserError as error:
        raise UserError(f"{flag}: {error}" if flag else str(error)) from None


def _read(file: Path, mapped: bool) -> Any:
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
        if file.suffix == SLIM_SUFFIX:
            return load_file(file)
        if file.suffix == ".npz":
            check_archive(file, max_unpacked_bytes=MAX_BYTES)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        is_zip = head.startswith(_ZIP)
        if not is_zip and _LEGACY_TORCH not in head:
            return restricted_unpickle(file)
        if is_zip:
            check_archive(file)
        with torch.serialization.safe_globals(_ALLOWED_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how to read the file without protection
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and is_zip)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or reason_of(error)
        raise UserError(f"{file} cannot be read ({reason}); expected a file of tensors") from None
    except Exception as error:  # a hostile file can break its reader anywhere, in any way
        raise UserError(
            f"{file} is broken or cannot be read safely ({reason_of(error)}); expected tensors and "
            "plain settings in a torch, safetensors or npz file, or a pickle of numpy arrays"
        ) from None


def read_weights(path: str | Path, *, flag: str = "") -> dict[str, Tensor]:
    """Read named tensors from any file that ``read_file`` reads.

    Args:
        path: the file; where it is a checkpoint, its ``state_dict`` is read.
        flag: the flag or argument the path came from, for messages.

    Returns:
        Name → finite CPU tensor; a nested file's names are joined with "/".

    Raises:
        UserError: the file is missing, damaged, or holds anything but named tensors.
    """
    tree = read_file(path, flag=flag)
    source = f"{flag}: {path}" if flag else str(path)
    state = _flatten(tree, source)
    check_values(state, source=source)
    return state


def _flatten(tree: Any, source: str) -> dict[str, Tensor]:
    if isinstance(tree, Mapping) and isinstance(tree.get("state_dict"), Mapping):
        tree = tree["state_dict"]
    state: dict[str, Tensor] = {}
    waiting: list[tuple[str, Any]] = [("", tree)]
    seen: set[int] = set()  # a container met twice could make the walk endless
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Tensor):
            state[name] = value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            native = value.astype(value.dtype.newbyteorder("="))
            state[name] = torch.from_numpy(np.array(native, order="C"))
        elif isinstance(value, Mapping) and id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{name}/{key}" if name else str(key), v) for key, v in value.items()]
        else:
            kind = type(value).__name__
            raise UserError(f"{source}: got a {kind} at {name[:80]!r}; expected named tensors")
    if not state:
        raise UserError(f"{source}: got no tensors; expected named tensors")
    return state


def check_values(given: Mapping[str, Any], *, source: str) -> None:
    """Hold weights to plain finite numbers, each stored once.

    A file of a few bytes could otherwise ask for any amount of work and memory.

    Raises:
        UserError: a weight is none, claims more values than are stored, shares them with another,
            or holds a value that is not finite.
    """
    extents = []
    for name, tensor in given.items():
        shown = f"{source}: {name[:120]}"
        if not isinstance(tensor, Tensor):
            raise UserError(f"{shown} is a {type(tensor).__name__}; expected numbers")
        if tensor.layout != torch.strided or tensor.dtype not in _NUMBERS:
            kind = f"{tensor.dtype} of {tensor.layout}"
            raise UserError(f"{shown} got a {kind}; expected plain numbers")
        n_bytes, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        if n_bytes > storage.nbytes() - tensor.storage_offset() * tensor.element_size():
            raise UserError(
                f"{shown} holds fewer values than its shape {tuple(tensor.shape)} says; expected "
                "one for each place"
            )
        if n_bytes:
            extents.append((tensor.data_ptr(), tensor.data_ptr() + n_bytes, name))
    for (_, end, name), (start, _, other) in pairwise(sorted(extents)):
        if start < end:
            raise UserError(
                f"{source}: {name[:120]} and {other[:120]} share their values; expected values of "
                "their own"
            )
    for name, tensor in given.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise UserError(
                f"{source}: {name[:120]} holds NaN or infinite values; expected finite ones"
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; needs no memory of the tensor's size."""
    return not tensor.numel() or all(bool(bound.isfinite()) for bound in tensor.aminmax())


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Return one sha256 over names, shapes and values, whatever file format they came from.

    Args:
        state: name → tensor.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- what is refused, and how it is said ------------------------------------------------------


def reason_of(error: BaseException) -> str:
    """Say in one line why something failed.

    torch's own message advises to read the file without protection; only its finding is kept.

    Args:
        error: what a reader raised.
    """
    text = str(error).strip()
    finding = re.search(r"[Uu]nsupported (?:[a-z ]+: )?(?:GLOBAL \S+|[a-z ]+\d+)", text)
    if finding:
        return finding.group().removesuffix(".")
    if "weights_only" in text:
        return "it holds more than tensors and plain containers, or is damaged"
    return " ".join(text.split("\n")[0].split())[:200] or type(error).__name__


@contextmanager
def converting(file: str | Path, expected: str) -> Iterator[None]:
    """Turn arrays of another framework into a network's; they can be wrong in any way.

    Args:
        file: where the arrays came from.
        expected: what they should be.

    Raises:
        UserError: they do not have the names and axes of what was expected.
    """
    try:
        yield
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{file}: got tensors without {error}; expected {expected}") from None
    except Exception as error:
        raise UserError(
            f"{file}: got tensors of other shapes ({reason_of(error)}); expected {expected}"
        ) from None


def check_archive(file: Path, *, max_unpacked_bytes: int = 0) -> None:
    """Refuse archives that torch and numpy never write.

    Args:
        file: a zip archive.
        max_unpacked_bytes: the most that its compressed members may hold; torch compresses none.

    Raises:
        UserError: members are compressed beyond that, overlap, share a name, lie outside the
            archive's own folder, or describe a structure too large.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{file} is a broken archive ({error}); fetch it again") from None
    names: set[str] = set()
    n_stored = n_unpacked = 0
    for entry in entries:
        parts, stored = Path(entry.filename).parts, entry.compress_type == zipfile.ZIP_STORED
        n_stored += max(entry.compress_size, entry.file_size if stored else 0)
        n_unpacked += 0 if stored else entry.file_size
        outside = entry.filename[:1] == "/" or ".." in parts
        if outside or entry.filename in names or (not stored and not max_unpacked_bytes):
            raise UserError(
                f"{file} holds {entry.filename[:80]!r}, which torch.save would not write; expected "
                "an archive of tensors"
            )
        names.add(entry.filename)
        if parts[-1:] == ("data.pkl",) and entry.file_size > LARGEST_STRUCTURE_BYTES:
            raise UserError(
                f"{file} describes {entry.file_size:,} bytes of structure; expected at most "
                f"{LARGEST_STRUCTURE_BYTES:,}"
            )
    if n_stored > (size := file.stat().st_size):
        raise UserError(f"{file} of {size:,} bytes claims to hold {n_stored:,}; fetch it again")
    if n_unpacked > max_unpacked_bytes:
        raise UserError(
            f"{file} unpacks to {n_unpacked:,} bytes; expected at most {max_unpacked_bytes:,}"
        )


def is_torchscript(path: str | Path) -> bool:
    """Say whether a file is a TorchScript archive, which holds code besides weights.

    Args:
        path: any file, or none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def check_torchscript(path: str | Path) -> None:
    """Refuse a TorchScript archive whose program does more than compute.

    Such a program cannot call Python, but torch has operators that read and write files.

    Args:
        path: a TorchScript archive.

    Raises:
        UserError: it is damaged, or uses an operator that is not for computing.
    """
    check_archive(Path(path), max_unpacked_bytes=MAX_PROGRAM_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            programs = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    except Exception as error:  # a hostile archive can break its reader anywhere
        raise UserError(
            f"{path}: got no readable TorchScript file ({reason_of(error)}); expected I3D"
        ) from None
    for program in programs:
        if found := _TOUCHES_FILES.search(program):
            raise UserError(
                f"{path}: got a program that uses {found.group().decode()!r}; expected one that "
                "only computes; it was not run"
            )
