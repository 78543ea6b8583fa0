"""Reading checkpoints: ours and the released ones, without ever executing what they contain.

A checkpoint is a dictionary with ``state_dict`` (``encoder.…``, ``transformer.blocks.…``) and
``hyper_parameters`` (``args``: all flags of the run that wrote it, a plain dict in our files, an
``argparse.Namespace`` in the released ones). A *slim* checkpoint is a ``.safetensors`` file with
the weights alone and a ``.json`` file of the same name with the settings.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tats.errors import UserError
from tats.weights.checkpoint_files import read_content
from tats.weights.files import reason_of
from tats.weights.released import closest_names, released_file

log = logging.getLogger(__name__)

# Settings that models are built and sampled from: sizes, with the least each may be, and texts.
_LEAST = {
    "sequence_length": -1,  # the whole video
    "resolution": 1,
    "image_channels": 1,
    "sample_every_n_frames": 1,
    "spatial_length": 1,
    "text_seq_len": 1,
    "embedding_dim": 1,
    "n_codes": 1,
    "n_hiddens": 1,
    "first_stage_vocab_size": 1,
    "class_cond_dim": 1,
    "block_size": 1,
    "n_layer": 1,
    "n_head": 1,
    "n_embd": 1,
    "n_unmasked": 0,
    "sample_every_n_latent_frames": 0,
    "sos_token": 0,
}
_TEXTS = ("norm_type", "padding_type", "data_path", "first_stage_key", "cond_stage_key")
# What a transformer's file holds beside ``args``.
_KEY_DEFAULTS = {"first_stage_key": "video", "cond_stage_key": "label", "pkeep": 1, "sos_token": 0}
_LARGEST = 2**31 - 1
_NUMBERS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


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


def read_checkpoint(path: str | Path, *, flag: str, stage: str | None) -> Checkpoint:
    """Read a checkpoint file safely, on the CPU.

    Weights are mapped from the file and read when they are used, so a file's optimiser states
    and other parts nobody asks for cost no memory.

    Args:
        path: a Lightning ``.ckpt`` (torch zip or legacy pickle), a slim ``.safetensors``, or a
            name from the table of released files, fetched if it is not at hand.
        flag: the flag or argument the path came from, for messages.
        stage: the model it must hold, "vqgan" or "transformer"; None for either.

    Raises:
        UserError: the file is missing, broken, hostile, or holds another model.
    """
    path = released_file(str(path), stage=stage) or Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"{flag}: got {path}, which is not a file; expected a checkpoint (.ckpt, or "
            f".safetensors) or a released one's name{closest_names(str(path))}"
        )
    content = read_content(path, flag=flag)
    hyper_parameters = content.get("hyper_parameters")
    checkpoint = Checkpoint(
        path=path,
        state_dict=content["state_dict"],
        hyper_parameters=hyper_parameters if isinstance(hyper_parameters, dict) else {},
    )
    if checkpoint.stage == "unknown" or stage not in (checkpoint.stage, None):
        raise UserError(
            f"{flag}: {path} holds a {checkpoint.stage} model; expected a "
            f"{stage or 'vqgan or transformer'} checkpoint"
        )
    _check_settings(checkpoint, flag)
    return checkpoint


def _check_settings(checkpoint: Checkpoint, flag: str) -> None:
    """Hold the settings a model is built from to their types; those of training do not matter."""
    settings = {**checkpoint.args, **_KEY_DEFAULTS}
    settings.update((k, v) for k, v in checkpoint.hyper_parameters.items() if k in _KEY_DEFAULTS)
    for name, value in settings.items():
        if not isinstance(name, str):
            expected = "names"
        elif value is None:
            continue
        elif name in _LEAST:
            if type(value) is int and _LEAST[name] <= value <= _LARGEST:
                continue
            expected = f"a whole number of {_LEAST[name]} or more"
        elif name in _TEXTS and not isinstance(value, str):
            expected = "a text"
        elif name == "pkeep" and not isinstance(value, (int, float)):
            expected = "a number"
        else:
            continue
        got = str(value)[:40] if isinstance(value, (int, float, str)) else type(value).__name__
        raise UserError(
            f"{flag}: the settings in {checkpoint.path} have {got!r} for {str(name)[:40]}; "
            f"expected {expected}"
        )


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
    except UserError as error:
        raise UserError(f"{flag}: the settings in {path}: {error}") from error
    except Exception as error:  # settings from a file can be wrong in any way
        raise UserError(
            f"{flag}: the settings in {path} describe no model ({reason_of(error)}); expected "
            "those of train_vqgan.py or train_transformer.py"
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
        dropped: beginnings of names in ``state`` that the module does without.

    Raises:
        UserError: a name is missing or unexpected, a shape differs, a value is not finite.
    """
    wanted = module.state_dict()
    given = check_weights(
        without(state, dropped, source=source), wanted, source=source, model=type(module).__name__
    )
    module.load_state_dict(given, assign=any(tensor.is_meta for tensor in wanted.values()))


def without(
    state: Mapping[str, Tensor], dropped: Iterable[str], *, source: str
) -> dict[str, Tensor]:
    """Leave out weights that are not needed, and log how many, by the beginnings of their names.

    Args:
        state: name → tensor.
        dropped: beginnings of names; ``*`` in one stands for anything.
        source: where the weights came from, for the log.
    """
    kept = dict(state)
    for beginning in dropped:
        names = [name for name in kept if fnmatchcase(name, f"{beginning}*")]
        for name in names:
            del kept[name]
        if names:
            log.info("%s: %d weights of %s* are not needed here", source, len(names), beginning)
    return kept


def check_weights(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str, model: str
) -> dict[str, Tensor]:
    """Hold weights to the names and shapes of a model.

    Returns:
        The weights in the model's number types.

    Raises:
        UserError: a name is missing or unexpected, a shape differs, a value is not finite, or
            weights share the values of others.
    """
    missing, unexpected = wanted.keys() - given.keys(), given.keys() - wanted.keys()
    if missing or unexpected:
        problems = [
            f"{len(names)} {kind} weight(s), {', '.join(_shown(names, state))}"
            for kind, names, state in (
                ("missing", missing, wanted),
                ("unexpected", unexpected, given),
            )
            if names
        ]
        raise UserError(
            f"{source}: {' and '.join(problems)}; expected the {len(wanted)} of this {model}"
        )
    for name, tensor in given.items():
        _check_weight(tensor, wanted[name], f"{source}: {name}")
    check_values(given, source=source)
    return {name: tensor.to(wanted[name].dtype) for name, tensor in given.items()}


def check_values(given: Mapping[str, Any], *, source: str) -> None:
    """Hold weights to plain finite numbers, each stored once.

    A file of a few bytes could otherwise ask for any amount of work and memory.

    Raises:
        UserError: a weight is none, claims more values than are stored, shares them with another,
            or holds a value that is not finite.
    """
    extents = []
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{source}: {name[:120]} is a {_shape(tensor)}; expected numbers")
        if tensor.layout != torch.strided or tensor.dtype not in _NUMBERS:
            kind = f"{tensor.dtype} of {tensor.layout}"
            raise UserError(f"{source}: {name[:120]} got a {kind}; expected plain numbers")
        n_bytes, storage = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        if n_bytes > storage.nbytes() - tensor.storage_offset() * tensor.element_size():
            raise UserError(
                f"{source}: {name[:120]} holds fewer values than its shape {tuple(tensor.shape)} "
                "says; expected one for each place"
            )
        if n_bytes:
            extents.append((tensor.data_ptr(), tensor.data_ptr() + n_bytes, name))
    for (_, end, name), (start, _, other) in pairwise(sorted(extents)):
        if start < end:
            raise UserError(
                f"{source}: {name} and {other} share their values; expected values of their own"
            )
    for name, tensor in given.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise UserError(f"{source}: {name} holds NaN or infinite values; expected finite ones")


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite; needs no memory of the tensor's size."""
    return not tensor.numel() or all(bool(bound.isfinite()) for bound in tensor.aminmax())


def _shown(names: Iterable[str], state: Mapping[str, Any]) -> list[str]:
    """The first few names with their shapes."""
    shown = sorted(names)
    return [f"{name[:120]} {_shape(state[name])}" for name in shown[:3]] + ["…"] * (len(shown) > 3)


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__


def _check_weight(given: Any, wanted: Tensor, name: str) -> None:
    if not isinstance(given, Tensor) or given.shape != wanted.shape:
        raise UserError(f"{name} got {_shape(given)}; expected shape {tuple(wanted.shape)}")
    if given.is_floating_point() != wanted.is_floating_point():
        raise UserError(f"{name} got {given.dtype}; expected {wanted.dtype}")
