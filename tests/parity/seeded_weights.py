"""Weights drawn from a seed, as the reference outputs' models had them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

KEPT = ("scaling_layer.shift", "scaling_layer.scale", "attn.mask")


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    def normal() -> Tensor:
        return torch.randn(shape, generator=generator)

    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=generator)
    if name.endswith("running_mean"):
        return 0.1 * normal()
    if len(shape) >= 4:
        drawn = normal() * math.sqrt(2 / math.prod(shape[1:]))
        return drawn.abs() if ".model.1.weight" in name else drawn
    if len(shape) >= 2:
        return normal() * math.sqrt(1 / math.prod(shape[1:]))
    return 1 + 0.2 * normal() if name.endswith("weight") else 0.1 * normal()


def seed_weights(module: nn.Module, seed: int) -> None:
    """Overwrite every weight of ``module`` (I3D or LPIPS) in the order of sorted names."""
    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for name in sorted(state):
        if name.endswith(KEPT):
            continue
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        else:
            state[name] = _draw(name, state[name].shape, generator)
    module.load_state_dict(state)
