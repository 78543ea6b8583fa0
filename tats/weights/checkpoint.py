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
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tats.errors import UserError
from tats.paths import atomic_path
from tats.weights.catalogue import resolve_checkpoint
from tats.weights.files import (
    LARGEST_STRUCTURE_BYTES,
    SLIM_SUFFIX,
    check_values,
    read_file,
    reason_of,
)

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
    path = resolve_checkpoint(path, flag=flag, stage=stage)
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
    if path.suffix == SLIM_SUFFIX:
        settings = _read_settings(path, flag)
        return {"state_dict": read_file(path, flag=flag), "hyper_parameters": settings}
    content = read_file(path, flag=flag, mapped=mapped)
    if not isinstance(content, dict):
        raise UserError(
            f"{flag}: {path} holds a {type(content).__name__}; expected a checkpoint dictionary"
        )
    state = content.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{flag}: {path} holds no state_dict; expected a checkpoint of a model")
    return content


def _read_settings(path: Path, flag: str) -> Any:
    """Read the settings beside a slim checkpoint's weights."""
    file = path.with_suffix(".json")
    try:
        if file.stat().st_size > LARGEST_STRUCTURE_BYTES:
            raise UserError(f"{flag}: {file} is too large; expected a few settings")
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{flag}: {path} needs its settings beside it; expected {file}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{flag}: {file} is broken ({reason_of(error)}); expected settings in JSON"
        ) from error


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


# --- slim checkpoints -------------------------------------------------------------------------


def write_slim(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    hyper_parameters: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    source: str = "",
    overwrite: bool = False,
) -> list[str]:
    """Write a slim checkpoint: weights in ``NAME.safetensors``, settings in ``NAME.json``.

    Args:
        path: the weights' file, ending in ``.safetensors``.
        state_dict: name → tensor on any device.
        hyper_parameters: of the model; its flags under "args", a mapping or a ``Namespace``.
        dtype: of the floating-point weights in the file; None keeps each one's own.
        source: where the weights came from; stored in the file.
        overwrite: replace files that are there already.

    Returns:
        Names of flags left out because no JSON text can hold their values.

    Raises:
        UserError: another file's name, a file is there already, a weight is not plain finite
            numbers, or the folder cannot be written to; then nothing is written.
    """
    path, settings_path = Path(path), Path(path).with_suffix(".json")
    if path.suffix != SLIM_SUFFIX:
        raise UserError(f"got {path}; expected a file name ending in {SLIM_SUFFIX}")
    there = [str(file) for file in (path, settings_path) if file.exists()]
    if there and not overwrite:
        raise UserError(f"got {' and '.join(there)}, which is there; expected a new file's name")
    check_values(state_dict, source=source or str(path))
    weights = {
        name: weight.detach().to("cpu", dtype if weight.is_floating_point() else None).contiguous()
        for name, weight in state_dict.items()
    }
    settings, left_out = plain_settings(hyper_parameters)
    with atomic_path(settings_path) as settings_file, atomic_path(path) as weights_file:
        settings_file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        mode = weights_file.stat().st_mode
        save_file(weights, weights_file, {"source": Path(source).name})
        weights_file.chmod(mode)  # save_file's files are private
    return left_out


def plain_settings(hyper_parameters: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn a model's settings into what JSON can hold.

    Returns:
        The settings, the model's flags under "args"; names of those flags that no text can hold.
    """
    args = hyper_parameters.get("args", {})
    flags = dict(sorted((args if isinstance(args, Mapping) else vars(args)).items()))
    others = {k: v for k, v in hyper_parameters.items() if k != "args" and _fits_json(v)}
    kept = {name: value for name, value in flags.items() if _fits_json(value)}
    return {**others, "args": kept}, [name for name in flags if name not in kept]


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
