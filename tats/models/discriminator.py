"""PatchGAN discriminators for single frames (2D) and whole clips (3D), and the GAN losses."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tats.flags import DiscriminatorLoss

DISCRIMINATOR_LOSSES: tuple[str, ...] = get_args(DiscriminatorLoss)

KERNEL = 4
PADDING = 2
MAX_CHANNELS = 512
LEAK = 0.2


class Judgement(NamedTuple):
    """A discriminator's verdict."""

    logits: Float[Tensor, "B 1 *patches"]  # high where the input looks real
    features: list[Float[Tensor, "B channels *sizes"]]  # every layer's output, the logits last


class PatchDiscriminator(nn.Module):
    """Stack of strided convolutions that judges overlapping patches.

    Args:
        dims: 2 for frames, 3 for clips.
        in_channels: colour channels.
        channels: width of the first layer; doubles per layer up to 512.
        n_layers: number of stride-2 layers; two stride-1 layers follow.

    Source: Ge et al. §3.1; Isola et al. 2017.
    """

    def __init__(self, *, dims: Literal[2, 3], in_channels: int, channels: int, n_layers: int):
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        norm = nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d
        self.n_layers = n_layers + 2
        widths = [in_channels, channels]
        widths += [min(channels << i, MAX_CHANNELS) for i in range(1, n_layers + 1)]
        widths += [1]
        for layer in range(self.n_layers):
            parts: list[nn.Module] = [
                conv(
                    widths[layer],
                    widths[layer + 1],
                    KERNEL,
                    stride=2 if layer < n_layers else 1,
                    padding=PADDING,
                )
            ]
            if 0 < layer <= n_layers:
                parts.append(norm(widths[layer + 1]))
            if layer <= n_layers:
                # Not in place: the pre-activation must survive for the backward pass.
                parts.append(nn.LeakyReLU(LEAK))
            self.add_module(f"model{layer}", nn.Sequential(*parts))

    def forward(self, x: Float[Tensor, "B C *sizes"]) -> Judgement:
        """Judge frames or clips in [-0.5, 0.5]."""
        features: list[Tensor] = []
        for layer in range(self.n_layers):
            x = self.get_submodule(f"model{layer}")(x)
            features.append(x)
        return Judgement(x, features)


def generator_loss(fake: Judgement) -> Float[Tensor, ""]:
    """How far the fakes are from looking real: minus their mean logit."""
    return -fake.logits.float().mean()


def discriminator_loss(kind: str, real: Judgement, fake: Judgement) -> Float[Tensor, ""]:
    """How far the discriminator is from telling real from fake.

    Args:
        kind: "hinge" or "vanilla" (softplus).
        real: verdict on real input.
        fake: verdict on detached reconstructions.
    """
    real_logits, fake_logits = real.logits.float(), fake.logits.float()
    if kind == "hinge":
        on_real, on_fake = F.relu(1.0 - real_logits), F.relu(1.0 + fake_logits)
    elif kind == "vanilla":
        on_real, on_fake = F.softplus(-real_logits), F.softplus(fake_logits)
    else:
        raise ValueError(f"disc_loss_type got {kind!r}; expected one of {DISCRIMINATOR_LOSSES}")
    return 0.5 * (on_real.mean() + on_fake.mean())


def feature_matching_loss(fake: Judgement, real: Judgement) -> Float[Tensor, ""]:
    """Sum over all layers but the logits of the L1 distance between fake's and real's output."""
    pairs = zip(fake.features[:-1], real.features[:-1], strict=True)
    return torch.stack([F.l1_loss(f.float(), r.detach().float()) for f, r in pairs]).sum()
