"""Reading checkpoints: ours and the released ones, without ever executing what they contain.

A checkpoint is a dictionary with ``state_dict`` (names of SPEC: ``encoder.…``,
``transformer.blocks.…``) and ``hyper_parameters`` (``args``: all flags of the run that wrote it,
a plain dict in our files, an ``argparse.Namespace`` in the released ones).
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tats.errors import UserError


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

    Args:
        path: a Lightning ``.ckpt`` (torch zip or legacy pickle).
        flag: the flag or argument the path came from, for messages.
        stage: the model it must hold, "vqgan" or "transformer".

    Raises:
        UserError: the file is missing, broken, hostile, or holds another model.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{flag}: got {path}, which is not a file; expected a checkpoint (.ckpt)")
    try:
        with torch.serialization.safe_globals(_ALLOWED_GLOBALS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{flag}: {path} is not a checkpoint we can read safely ({reason}); expected a .ckpt "
            "with tensors and plain settings only"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{flag}: {path} is broken or not a checkpoint ({reason}); expected a complete .ckpt, "
            "fetch or copy it again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{flag}: {path} holds no state_dict; expected a {stage} checkpoint")
    checkpoint = Checkpoint(
        path=path,
        state_dict=content["state_dict"],
        hyper_parameters=dict(content.get("hyper_parameters") or {}),
    )
    if checkpoint.stage != stage:
        raise UserError(
            f"{flag}: {path} holds a {checkpoint.stage} model; expected a {stage} checkpoint"
        )
    return checkpoint


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, dropped: Iterable[str] = ()
) -> None:
    """Copy weights into a module; every name and shape must fit.

    Args:
        module: receives the weights.
        state: name → tensor.
        source: where the weights came from, for messages.
        dropped: prefixes of names in ``state`` that the module does without.

    Raises:
        UserError: a name is missing or unexpected, a shape differs, a value is not finite.
    """
    dropped = tuple(dropped)
    wanted = module.state_dict()
    given = {name: v for name, v in state.items() if not (dropped and name.startswith(dropped))}
    for problem, names in (
        ("missing", sorted(wanted.keys() - given.keys())),
        ("unexpected", sorted(given.keys() - wanted.keys())),
    ):
        if names:
            raise UserError(
                f"{source}: {len(names)} {problem} weight(s), first {', '.join(names[:3])}; "
                f"expected exactly the {len(wanted)} of this {type(module).__name__}"
            )
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor) or tensor.shape != wanted[name].shape:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UserError(
                f"{source}: {name} got {got}; expected shape {tuple(wanted[name].shape)}"
            )
        if tensor.is_floating_point() != wanted[name].is_floating_point():
            raise UserError(
                f"{source}: {name} got {tensor.dtype}; expected {wanted[name].dtype}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{source}: {name} holds NaN or infinite values; expected finite ones")
    module.load_state_dict(given)
