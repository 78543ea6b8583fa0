"""Fréchet distance and polynomial MMD against closed forms and definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tats.errors import UserError
from tats.evaluation import frechet_distance, polynomial_mmd


def test_one_dimensional_gaussians_give_the_closed_form():
    x = np.random.RandomState(0).randn(50, 1) * 3 + 2
    y = np.random.RandomState(1).randn(80, 1) * 0.5 - 1
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_the_square_root_is_that_of_the_covariances_product():
    random = np.random.RandomState(0)
    x, y = random.randn(60, 5) @ random.randn(5, 5), random.randn(40, 5) @ random.randn(5, 5)
    product = np.cov(x.T) @ np.cov(y.T)
    root = np.sqrt(np.linalg.eigvals(product).real).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T)) - 2 * root
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (4, 7), (7, 4), (30, 5)])
def test_fewer_samples_than_dimensions_still_give_a_distance(n: int, m: int):
    random = np.random.RandomState(0)
    x, y = random.randn(n, 20), random.randn(m, 20) + 1
    rotation = np.linalg.qr(random.randn(20, 20))[0]
    distance = frechet_distance(x, y)
    assert distance > 0
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(y, x) == pytest.approx(distance)
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(distance)


def test_moving_a_set_costs_the_square_of_the_way():
    x = torch.randn(30, 4)
    way = torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert frechet_distance(x, x + way) == pytest.approx(25, rel=1e-5)


def test_the_mmd_is_its_definition_pair_by_pair():
    random = np.random.RandomState(0)
    x, y = random.randn(5, 3), random.randn(4, 3)

    def mean_kernel(pairs) -> float:
        return float(np.mean([(a @ b / 3 + 1) ** 3 for a, b in pairs]))

    expected = (
        mean_kernel(itertools.permutations(x, 2))
        + mean_kernel(itertools.permutations(y, 2))
        - 2 * mean_kernel(itertools.product(x, y))
    )
    assert polynomial_mmd(x, y) == pytest.approx(expected, rel=1e-12)


def test_the_mmd_of_halves_of_one_set_scatters_around_zero():
    random = np.random.RandomState(0)
    estimates = [polynomial_mmd(random.randn(20, 3), random.randn(20, 3)) for _ in range(300)]
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / 300**0.5
    assert min(estimates) < 0


def test_half_precision_features_are_compared_in_float64():
    x, y = torch.randn(30, 4), torch.randn(30, 4)
    half = frechet_distance(x.half(), y.half())
    assert half == frechet_distance(x.half().double(), y.half().double().numpy())


@pytest.mark.parametrize("distance", [frechet_distance, polynomial_mmd])
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), r"got 1 sample\(s\)"),
        (torch.zeros(4, 3), torch.zeros(0, 3), r"got 0 sample\(s\)"),
        (torch.zeros(4, 3), torch.zeros(4, 2), r"shapes \(4, 3\) and \(4, 2\)"),
        (torch.zeros(4), torch.zeros(4), "expected .n, d."),
        (torch.zeros(4, 3), torch.full((4, 3), float("nan")), "NaN or infinity"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(distance, first, second, message: str):
    with pytest.raises(UserError, match=message):
        distance(first, second)
