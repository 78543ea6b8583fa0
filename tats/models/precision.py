"""What stays float32 whatever number format a run asks for.

Lightning changes the format in two ways: ``bf16-mixed`` runs the step under autocast, and
``bf16-true`` casts the module. Each thing that must not follow guards itself against both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

HALF_FORMATS = (torch.bfloat16, torch.float16)
FUSED_ON = ("cpu", "cuda")  # where one kernel takes all of a step of Adam's
FLOAT32_VALUE = "float32_value"  # in an optimiser's state: a parameter before it was rounded


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

    Where torch can, one kernel steps a parameter. That follows from where the parameters are, not
    from a checkpoint, which may come from another device.
    """

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        params = list(params)
        groups = [group["params"] if isinstance(group, dict) else [group] for group in params]
        on = {parameter.device.type for group in groups for parameter in group}
        super().__init__(params, **{"fused": on <= set(FUSED_ON), **settings})
        # Gradients are unscaled before the step, as clipping and the float32 values need them.
        self._step_supports_amp_scaling = False

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter; ``closure`` is called first."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        step: Any = super().step
        if getattr(step, "hooked", False):  # by torch, which would run this step's hooks twice
            step = partial(step.__wrapped__, self)
        with self._in_float32() as values:
            for parameter, value in values.items():
                value.grad = None if parameter.grad is None else parameter.grad.float()
            step()
        for parameter, value in values.items():
            if value.grad is not None:
                value.grad = None
                self.state[parameter][FLOAT32_VALUE] = value
                with torch.no_grad():
                    parameter.copy_(value)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over stored moments and float32 values without rounding them."""
        kernels = {key: self.defaults[key] for key in ("foreach", "fused")}
        groups = [{**group, **kernels} for group in state_dict["param_groups"]]
        state_dict = {**state_dict, "param_groups": groups}
        with self._in_float32():
            super().load_state_dict(state_dict)
        for parameter, state in self.state.items():
            if parameter.dtype not in HALF_FORMATS:
                state.pop(FLOAT32_VALUE, None)  # of a run in half precision, soon out of date

    @contextmanager
    def _in_float32(self) -> Iterator[dict[Tensor, Tensor]]:
        """Put float32 values in the place of parameters in half, for torch's own code.

        The parameters themselves stay untouched: gradients are shared among processes by hooks
        that hang on them.
        """
        values = {
            parameter: self._float32_value(parameter)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.dtype in HALF_FORMATS
        }
        self._replace(values)
        try:
            yield values
        finally:
            self._replace({value: parameter for parameter, value in values.items()})

    def _float32_value(self, parameter: Tensor) -> Tensor:
        stored = self.state.get(parameter, {}).get(FLOAT32_VALUE)
        return parameter.detach().float() if stored is None else stored

    def _replace(self, substitutes: dict[Tensor, Tensor]) -> None:
        for group in self.param_groups:
            group["params"] = [substitutes.get(p, p) for p in group["params"]]
        for old, new in substitutes.items():
            if old in self.state:
                self.state[new] = self.state.pop(old)


class Adam(_Float32Steps, torch.optim.Adam):
    """``torch.optim.Adam`` whose moments are never in half precision."""


class AdamW(_Float32Steps, torch.optim.AdamW):
    """``torch.optim.AdamW`` whose moments are never in half precision."""
