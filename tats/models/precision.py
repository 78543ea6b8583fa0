"""What stays float32 whatever number format a run asks for.

Lightning changes the format in two ways: ``bf16-mixed`` runs the step under autocast, and
``bf16-true`` casts the module. Each thing that must not follow guards itself against both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

HALF_FORMATS = (torch.bfloat16, torch.float16)
MASTER = "float32_value"  # an optimiser's own copy of a parameter kept in half precision


def without_autocast(tensor: Tensor) -> torch.autocast:
    """Compute in the tensors' own formats on this tensor's device, whatever the caller asked."""
    return torch.autocast(tensor.device.type, enabled=False)


def keeping_format(convert: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make ``nn.Module._apply``'s conversion change a tensor's device but not its format."""

    def moved(tensor: Tensor) -> Tensor:
        converted = convert(tensor)
        return converted if converted.dtype == tensor.dtype else tensor.to(converted.device)

    return moved


class _Float32Steps(torch.optim.Optimizer):
    """Adam's arithmetic in float32 for parameters in half precision.

    A weight in bfloat16 has 8 bits: most of a step would be rounded away, and so would most of
    the change of a moment. So each has a float32 value here, which the steps move, and the
    parameter is that value rounded. Parameters in float32 and float64 are stepped as they are.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter; ``closure`` is called first."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        with self._in_float32() as halves:
            super().step()
            for parameter, _ in halves:
                self.state[parameter][MASTER] = parameter.data
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over stored moments and float32 values without rounding them."""
        with self._in_float32():
            super().load_state_dict(state_dict)

    @contextmanager
    def _in_float32(self) -> Iterator[list[tuple[torch.nn.Parameter, torch.dtype]]]:
        """Show torch's own code the float32 value and gradient of each parameter in half."""
        groups = self.param_groups
        halves = [
            (p, p.dtype) for group in groups for p in group["params"] if p.dtype in HALF_FORMATS
        ]
        for parameter, _ in halves:
            gradient, parameter.grad = parameter.grad, None
            master = self.state.get(parameter, {}).get(MASTER)
            parameter.data = parameter.data.float() if master is None else master
            parameter.grad = None if gradient is None else gradient.float()
        try:
            yield halves
        finally:
            for parameter, dtype in halves:
                gradient, parameter.grad = parameter.grad, None
                parameter.data = parameter.data.to(dtype)
                parameter.grad = None if gradient is None else gradient.to(dtype)


class Adam(_Float32Steps, torch.optim.Adam):
    """``torch.optim.Adam`` whose moments are never in half precision."""


class AdamW(_Float32Steps, torch.optim.AdamW):
    """``torch.optim.AdamW`` whose moments are never in half precision."""
