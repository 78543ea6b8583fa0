"""Reading checkpoint files without ever executing what they contain."""

from __future__ import annotations

import argparse
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tats.errors import UserError
from tats.weights.files import reason_of

SLIM_SUFFIX = ".safetensors"
# Above this a checkpoint's structure (names, settings, no weights) is not one of ours: a model of
# 48 layers with its optimiser states takes less than a thirtieth.
LARGEST_STRUCTURE_BYTES = 1 << 24


class _DroppedCallbackState:
    """Stands in for a callback class that Lightning ≤ 1.4 used as a dictionary key."""


# Everything a released file may name besides tensors and plain containers. Building any of
# these runs no code of the file's choosing.
_ALLOWED_GLOBALS: list[Any] = [
    argparse.Namespace,
    (_DroppedCallbackState, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]


def read_content(path: Path, *, flag: str, mapped: bool = True) -> dict[str, Any]:
    """Read a checkpoint's dictionary, whichever kind of file holds it.

    Args:
        path: a Lightning ``.ckpt`` or a slim ``.safetensors`` with its ``.json``.
        flag: the flag or argument the path came from, for messages.
        mapped: leave the tensors in the file until they are used, where its format allows.

    Returns:
        A dictionary with at least ``state_dict``, which is a dictionary with names as keys.

    Raises:
        UserError: the file is broken, hostile, or no checkpoint.
    """
    content = _read_slim(path, flag) if path.suffix == SLIM_SUFFIX else _read(path, flag, mapped)
    state = content.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{flag}: {path} holds no state_dict; expected a checkpoint of a model")
    return content


def _read(path: Path, flag: str, mapped: bool) -> dict[str, Any]:
    """Read a ``.ckpt``: tensors, plain containers, and nothing executable."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_zip(path, flag)
    try:
        with torch.serialization.safe_globals(_ALLOWED_GLOBALS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how to read the file without protection
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped and is_zip
            )
    except Exception as error:  # a hostile file can break its reader anywhere, in any way
        raise UserError(
            f"{flag}: {path} is broken or not a checkpoint we can read safely "
            f"({reason_of(error)}); expected a complete .ckpt of tensors and plain settings"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{flag}: {path} holds a {type(content).__name__}; expected a checkpoint dictionary"
        )
    return content


def _check_zip(path: Path, flag: str) -> None:
    """Refuse archives torch never writes: compressed or overlapping (bombs), or climbing out."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{flag}: {path} is a broken archive ({error}); fetch it again") from error
    names = set()
    for entry in entries:
        parts = Path(entry.filename).parts
        plain = entry.compress_type == zipfile.ZIP_STORED and entry.filename[:1] != "/"
        if not plain or ".." in parts or entry.filename in names:
            raise UserError(
                f"{flag}: {path} holds {entry.filename[:80]!r}, which torch.save would not write; "
                "expected a checkpoint archive"
            )
        names.add(entry.filename)
        if parts[-1:] == ("data.pkl",) and entry.file_size > LARGEST_STRUCTURE_BYTES:
            raise UserError(
                f"{flag}: {path} describes {entry.file_size:,} bytes of structure; expected at "
                f"most {LARGEST_STRUCTURE_BYTES:,}"
            )
    n_bytes, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if n_bytes > size:
        raise UserError(f"{flag}: {path} of {size:,} bytes claims to hold {n_bytes:,}; fetch again")


def _read_slim(path: Path, flag: str) -> dict[str, Any]:
    """Read weights and settings of a slim checkpoint."""
    settings = path.with_suffix(".json")
    try:
        if settings.stat().st_size > LARGEST_STRUCTURE_BYTES:
            raise UserError(f"{flag}: {settings} is too large; expected a few settings")
        hyper_parameters = json.loads(settings.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{flag}: {path} needs its settings beside it; expected {settings}"
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{flag}: {settings} is broken ({reason_of(error)}); expected settings in JSON"
        ) from error
    try:
        return {"state_dict": load_file(path), "hyper_parameters": hyper_parameters}
    except (SafetensorError, ValueError, OSError, RuntimeError, TypeError) as error:
        raise UserError(
            f"{flag}: {path} is broken ({reason_of(error)}); expected a slim checkpoint"
        ) from error
