"""Distances between two sets of features: Fréchet (FVD) and polynomial-kernel MMD (KVD)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tats.errors import UserError

Array = Tensor | np.ndarray


def frechet_distance(first: Float[Array, "n d"], second: Float[Array, "m d"]) -> float:
    """Compute the Fréchet distance of two Gaussians fitted to two sets.

    Works in float64 and with fewer samples than dimensions, where the covariances are singular.

    Args:
        first: features of one set, on any device.
        second: features of the other.

    Returns:
        |mean difference|² + tr(C₁ + C₂ - 2 (C₁C₂)^½), covariances with n - 1.

    Raises:
        UserError: the shapes do not fit, a set has fewer than 2 samples, or a value is not finite.

    Source: Unterthiner et al. 2018.
    """
    x, y = _checked_pair(first, second)
    x_root, y_root = _covariance_root(x), _covariance_root(y)
    # C = RᵀR, so the eigenvalues of C₁C₂ are the squared singular values of R₁R₂ᵀ: no square root
    # of a matrix that rounding may have made indefinite.
    cross = torch.linalg.svdvals(x_root @ y_root.T).sum()
    mean_gap = (x.mean(0) - y.mean(0)).square().sum()
    return float(mean_gap + x_root.square().sum() + y_root.square().sum() - 2 * cross)


def polynomial_mmd(first: Float[Array, "n d"], second: Float[Array, "m d"]) -> float:
    """Compute the unbiased squared maximum mean discrepancy with kernel (x·y/d + 1)³.

    Args:
        first: features of one set, on any device.
        second: features of the other.

    Returns:
        The estimate, in float64; it can be negative where the sets are alike.

    Raises:
        UserError: the shapes do not fit, a set has fewer than 2 samples, or a value is not finite.

    Source: Bińkowski et al. 2018.
    """
    x, y = _checked_pair(first, second)
    within = _mean_off_diagonal(_kernel(x, x)) + _mean_off_diagonal(_kernel(y, y))
    return float(within - 2 * _kernel(x, y).mean())


def _covariance_root(x: Float[Tensor, "n d"]) -> Float[Tensor, "r d"]:
    """R, of min(n, d) rows, with RᵀR the unbiased covariance."""
    centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def _kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mean_off_diagonal(kernel: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    n = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))


def _checked_pair(first: Array, second: Array) -> tuple[Tensor, Tensor]:
    x, y = (torch.as_tensor(features).detach().cpu().double() for features in (first, second))
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1]:
        raise UserError(
            f"features: got shapes {tuple(x.shape)} and {tuple(y.shape)}; expected (n, d) and "
            "(m, d) with the same d"
        )
    for features in (x, y):
        if len(features) < 2:
            raise UserError(
                f"features: got {len(features)} sample(s) in a set; expected at least 2, compare "
                "more clips"
            )
        if not features.isfinite().all():
            raise UserError(
                "features: got NaN or infinity; expected finite values, look at the clips"
            )
    return x, y
