"""Reading checkpoints: ours and the released ones, without ever executing what they contain.

A checkpoint is a dictionary with ``state_dict`` (``encoder.…``, ``transformer.blocks.…``) and
``hyper_parameters`` (``args``: all flags of the run that wrote it, a plain dict in our files, an
``argparse.Namespace`` in the released ones). A *slim* checkpoint is a ``.safetensors`` file with
the weights alone and a ``.json`` file of the same name with the settings.
"""

from __future__ import annotations

import argparse
import json
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tats.errors import UserError
from tats.released import released_file

log = logging.getLogger(__name__)

SLIM_SUFFIX = ".safetensors"
# Above this a checkpoint's structure (names, settings, no weights) is not one of ours.
LARGEST_STRUCTURE_BYTES = 1 << 27


class _DroppedCallbackState:
    """Stands in for a callback class that Lightning ≤ 1.4 used as a dictionary key."""


# Everything a released file may name besides tensors and plain containers. Building any of
# these runs no code of the file's choosing.
_ALLOWED_GLOBALS: list[Any] = [
    argparse.Namespace,
    (_DroppedCallbackState, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]


@dataclass(frozen=True)
class Checkpoint:
    """What we take from a checkpoint file."""

    path: Path
    state_dict: dict[str, Tensor]
    hyper_parameters: dict[str, Any]

    @property
    def args(self) -> dict[str, Any]:
        """Flags of the run that wrote the file."""
        args = self.hyper_parameters.get("args")
        if isinstance(args, argparse.Namespace):
            return vars(args)
        if isinstance(args, Mapping):
            return dict(args)
        raise UserError(
            f"{self.path}: got a checkpoint without hyper_parameters['args']; expected one written "
            "by train_vqgan.py or train_transformer.py, or a released file"
        )

    @property
    def stage(self) -> str:
        """Which model the file holds: "transformer", "vqgan" or "unknown"."""
        if "transformer.tok_emb.weight" in self.state_dict:
            return "transformer"
        return "vqgan" if "codebook.embeddings" in self.state_dict else "unknown"

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Entries of the state dict below ``prefix``, without it."""
        return {k[len(prefix) :]: v for k, v in self.state_dict.items() if k.startswith(prefix)}


def read_checkpoint(path: str | Path, *, flag: str, stage: str) -> Checkpoint:
    """Read a checkpoint file safely, on the CPU.

    Weights are mapped from the file and read when they are used, so a file's optimiser states
    and other parts nobody asks for cost no memory.

    Args:
        path: a Lightning ``.ckpt`` (torch zip or legacy pickle), a slim ``.safetensors``, or a
            name from the table of released files, fetched if it is not at hand.
        flag: the flag or argument the path came from, for messages.
        stage: the model it must hold, "vqgan" or "transformer".

    Raises:
        UserError: the file is missing, broken, hostile, or holds another model.
    """
    path = released_file(str(path), stage=stage) or Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{flag}: got {path}, which is not a file; expected a checkpoint (.ckpt)")
    content = _read_slim(path, flag) if path.suffix == SLIM_SUFFIX else read_plain(path, flag=flag)
    if not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{flag}: {path} holds no state_dict; expected a {stage} checkpoint")
    hyper_parameters = content.get("hyper_parameters")
    checkpoint = Checkpoint(
        path=path,
        state_dict=content["state_dict"],
        hyper_parameters=hyper_parameters if isinstance(hyper_parameters, dict) else {},
    )
    if checkpoint.stage != stage:
        raise UserError(
            f"{flag}: {path} holds a {checkpoint.stage} model; expected a {stage} checkpoint"
        )
    return checkpoint


def read_plain(path: Path, *, flag: str, mapped: bool = True) -> dict[str, Any]:
    """Read a whole ``.ckpt`` dictionary: tensors, plain containers, and nothing executable.

    Args:
        path: the file.
        flag: the flag or argument the path came from, for messages.
        mapped: leave the tensors in the file until they are used, where its format allows.

    Raises:
        UserError: the file is broken, or names anything that is not on the short list.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _check_zip(path, flag)
    try:
        with torch.serialization.safe_globals(_ALLOWED_GLOBALS):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped and is_zip
            )
    except Exception as error:  # a hostile file can break its reader anywhere, in any way
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{flag}: {path} is broken or not a checkpoint we can read safely ({reason}); expected "
            "a complete .ckpt of tensors and plain settings"
        ) from error
    if not isinstance(content, dict):
        raise UserError(
            f"{flag}: {path} holds a {type(content).__name__}; expected a checkpoint dictionary"
        )
    return content


def _check_zip(path: Path, flag: str) -> None:
    """Refuse archives torch never writes: compressed (bombs), or with paths that climb out."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise UserError(f"{flag}: {path} is a broken archive ({error}); fetch it again") from error
    for entry in entries:
        parts = Path(entry.filename).parts
        if entry.compress_type != zipfile.ZIP_STORED or ".." in parts or entry.filename[:1] == "/":
            raise UserError(
                f"{flag}: {path} holds {entry.filename!r}, which torch.save would not write; "
                "expected a checkpoint archive"
            )
        if entry.filename.endswith("data.pkl") and entry.file_size > LARGEST_STRUCTURE_BYTES:
            raise UserError(
                f"{flag}: {path} describes {entry.file_size:,} bytes of structure; expected at "
                f"most {LARGEST_STRUCTURE_BYTES:,}"
            )


def _read_slim(path: Path, flag: str) -> dict[str, Any]:
    """Read weights and settings of a slim checkpoint."""
    settings = path.with_suffix(".json")
    try:
        hyper_parameters = json.loads(settings.read_text())
        return {"state_dict": load_file(path), "hyper_parameters": hyper_parameters}
    except FileNotFoundError as error:
        raise UserError(
            f"{flag}: {path} needs its settings beside it; expected {settings}"
        ) from error
    except (SafetensorError, ValueError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{flag}: {path} is broken ({reason}); expected a slim checkpoint"
        ) from error


@contextmanager
def building_from_settings(path: Path, flag: str) -> Iterator[None]:
    """Build a model from a file's settings without weights (on the meta device).

    Args:
        path: the file the settings came from.
        flag: the flag it came from, for messages.

    Raises:
        UserError: the settings do not describe a model.
    """
    try:
        with torch.device("meta"):
            yield
    except UserError:
        raise
    except Exception as error:  # settings from a file can be wrong in any way
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{flag}: the settings in {path} describe no model ({reason}); expected those of "
            "train_vqgan.py or train_transformer.py"
        ) from error


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, dropped: Iterable[str] = ()
) -> None:
    """Give a module its weights; every name and shape must fit.

    A module built on the meta device takes the given tensors as its own, so that loading needs
    no second copy; any other has them copied in.

    Args:
        module: receives the weights.
        state: name → tensor.
        source: where the weights came from, for messages.
        dropped: prefixes of names in ``state`` that the module does without.

    Raises:
        UserError: a name is missing or unexpected, a shape differs, a value is not finite.
    """
    wanted = module.state_dict()
    given = check_weights(
        _without(state, tuple(dropped), source), wanted, source=source, model=type(module).__name__
    )
    module.load_state_dict(given, assign=any(tensor.is_meta for tensor in wanted.values()))


def check_weights(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str, model: str
) -> dict[str, Tensor]:
    """Hold weights to the names and shapes of a model.

    Returns:
        The weights in the model's number types.

    Raises:
        UserError: a name is missing or unexpected, a shape differs, a value is not finite.
    """
    for problem, names in (
        ("missing", sorted(wanted.keys() - given.keys())),
        ("unexpected", sorted(given.keys() - wanted.keys())),
    ):
        if names:
            raise UserError(
                f"{source}: {len(names)} {problem} weight(s), first {', '.join(names[:3])}; "
                f"expected exactly the {len(wanted)} of this {model}"
            )
    for name, tensor in given.items():
        _check_weight(tensor, wanted[name], f"{source}: {name}")
    return {name: tensor.to(wanted[name].dtype) for name, tensor in given.items()}


def check_optimizer_states(
    checkpoint: dict[str, Any], optimizers: Iterable[torch.optim.Optimizer]
) -> None:
    """Drop a checkpoint's optimiser states, with a warning, unless they fit the optimisers.

    Args:
        checkpoint: a whole checkpoint; changed in place.
        optimizers: those it would be loaded into, in order.
    """
    states = checkpoint.get("optimizer_states") or []
    for optimizer, state in zip(optimizers, states, strict=False):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        stored = [index for group in state["param_groups"] for index in group["params"]]
        moments = [state["state"].get(index, {}).get("exp_avg") for index in stored]
        if len(stored) != len(parameters) or any(
            moment is not None and moment.shape != parameter.shape
            for moment, parameter in zip(moments, parameters, strict=True)
        ):
            log.warning("the checkpoint's optimiser states do not fit; starting with fresh ones")
            checkpoint["optimizer_states"] = []
            return


def _without(
    state: Mapping[str, Tensor], dropped: tuple[str, ...], source: str
) -> dict[str, Tensor]:
    """Leave out the names below ``dropped`` prefixes, and log how many each had."""
    kept = dict(state)
    for prefix in dropped:
        names = [name for name in kept if name.startswith(prefix)]
        for name in names:
            del kept[name]
        if names:
            log.info("%s: %d weights of %s* are not needed here", source, len(names), prefix)
    return kept


def _check_weight(given: Any, wanted: Tensor, name: str) -> None:
    if not isinstance(given, Tensor) or given.shape != wanted.shape:
        got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise UserError(f"{name} got {got}; expected shape {tuple(wanted.shape)}")
    if given.is_floating_point() != wanted.is_floating_point() or given.is_complex():
        raise UserError(f"{name} got {given.dtype}; expected {wanted.dtype}")
    if given.is_floating_point() and not bool(torch.isfinite(given).all()):
        raise UserError(f"{name} holds NaN or infinite values; expected finite ones")
