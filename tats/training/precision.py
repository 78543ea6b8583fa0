"""``--precision``: the number formats of training."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pytorch_lightning.plugins.precision import Precision
from torch import nn

from tats.errors import UserError

# Formats by their short names, which are Lightning 1.5's, and by today's.
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}
CASTS = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}


class CastModule(Precision):
    """Train a module cast to another number format.

    Lightning's own plugins cast the batch too, before the model sees it. The frozen first stage
    must encode the clips as they were read, so here the models cast what they use.

    Args:
        precision: a key of ``CASTS``.
    """

    def __init__(self, precision: str) -> None:
        self.precision = cast(Literal["bf16-true", "16-true", "64-true"], precision)

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast the module; what stays float32 sees to that itself."""
        return module.to(CASTS[self.precision])


def choose_precision(flag: str, accelerator: str) -> str | CastModule:
    """Read ``--precision``: one of Lightning's formats by its name, or a plugin of ours.

    Args:
        flag: a key or a value of ``PRECISIONS``, or a key of ``CASTS``.
        accelerator: "cpu" or "gpu".

    Raises:
        UserError: there is no such format, or not on this accelerator.
    """
    name = PRECISIONS.get(flag, flag)
    known = (*PRECISIONS, *PRECISIONS.values(), *CASTS)
    if name not in known:
        raise UserError(
            f"--precision got {flag!r}; expected {', '.join(PRECISIONS)}, or for a whole model in "
            "half precision bf16-true or 16-true"
        )
    if name.startswith("16") and accelerator == "cpu":
        raise UserError(f"--precision got {flag} on the CPU; expected 32, bf16 or 64 there")
    return CastModule(name) if name in CASTS else name
