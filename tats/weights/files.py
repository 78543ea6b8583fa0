"""Reading weight files of any origin as named tensors, without executing what they hold."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tats.errors import UserError
from tats.weights.pickles import MAX_BYTES, restricted_unpickle

MAX_PROGRAM_BYTES = 1 << 24
# In a serialized program: torch.save, torch.from_file, and operators of other libraries.
_TOUCHES_FILES = re.compile(
    rb"\b(?:save|from_file)\s*\(|\bops\s*\.\s*(?!\s|prim\b|aten\b)\w+\s*\.\s*\w+"
)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from a safetensors, torch or npz file, or a pickle of numpy arrays.

    Args:
        path: the file; a torch file is read with ``weights_only=True`` and a pickle by
            ``restricted_unpickle``, so neither can execute anything.

    Returns:
        Name → CPU tensor; a nested pickle's names are joined with "/".

    Raises:
        UserError: the file is missing, damaged, or holds anything but named tensors.
    """
    file = Path(path)
    try:
        with open(file, "rb") as stream:
            head = stream.read(16)
        if file.suffix == ".safetensors":
            return load_file(file)
        if file.suffix == ".npz":
            tree: Any = _read_npz(file)
        elif head.startswith(b"PK") or b"\x8a\x0al\xfc\x9cF\xf9" in head:  # torch's two formats
            tree = torch.load(file, map_location="cpu", weights_only=True)
        else:
            tree = restricted_unpickle(file)
    except UserError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{file}: cannot be read ({reason}); expected a weight file") from None
    except Exception as error:  # a hostile file can break its reader anywhere, in any way
        raise UserError(
            f"{file}: got no readable weight file ({reason_of(error)}); expected named tensors in "
            "a safetensors, torch or npz file, or a pickle of numpy arrays"
        ) from None
    return _flatten(file, tree)


def reason_of(error: BaseException) -> str:
    """Say in one line why reading a file failed.

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
    return text.split("\n")[0][:200] or type(error).__name__


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        n_bytes = sum(member.file_size for member in archive.infolist())
    if n_bytes > MAX_BYTES:
        raise UserError(f"{file}: got {n_bytes} bytes unpacked; expected at most {MAX_BYTES}")
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _flatten(file: Path, tree: Any) -> dict[str, Tensor]:
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
            raise UserError(f"{file}: got a {kind} at {name[:80]!r}; expected named tensors")
    if not state:
        raise UserError(f"{file}: got no tensors; expected named tensors")
    return state


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


def is_torchscript(path: str | Path) -> bool:
    """Say whether a file is a TorchScript archive, which holds code besides weights.

    Args:
        path: any file, or none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def check_torchscript(path: str | Path) -> None:
    """Refuse a TorchScript archive whose program does more than compute.

    Such a program cannot call Python, but torch has operators that read and write files.

    Args:
        path: a TorchScript archive.

    Raises:
        UserError: it is damaged, or uses an operator that is not for computing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.filename.endswith(".py"):
                    continue
                if entry.file_size > MAX_PROGRAM_BYTES:
                    raise UserError(
                        f"{path}: got a program of {entry.file_size} bytes; expected I3D"
                    )
                found = _TOUCHES_FILES.search(archive.read(entry))
                if found:
                    raise UserError(
                        f"{path}: got a program that uses {found.group().decode()!r}; expected "
                        "one that only computes; it was not run"
                    )
    except UserError:
        raise
    except Exception as error:  # a hostile archive can break its reader anywhere
        raise UserError(
            f"{path}: got no readable TorchScript file ({reason_of(error)}); expected I3D"
        ) from None
