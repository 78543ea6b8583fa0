"""Token filters and the draw: exact sets, exact probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tats.sampling import TokenFilter
from tats.sampling.draw import draw, draw_token


def logits_of(*probabilities: float) -> Tensor:
    return torch.tensor([probabilities]).log()


def kept(filtered: Tensor) -> list[int]:
    return filtered[0].isfinite().nonzero()[:, 0].tolist()


def test_no_setting_changes_nothing() -> None:
    logits = torch.randn(3, 20)
    assert torch.equal(TokenFilter()(logits), logits)
    assert torch.equal(TokenFilter(top_k=20, top_p=1.0)(logits), logits)
    assert torch.equal(TokenFilter(top_k=99)(logits), logits)


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(3, 20)
    assert torch.equal(TokenFilter(temperature=0.5)(logits), logits * 2)


def test_top_k_keeps_the_likeliest_and_all_that_tie_with_the_last_of_them() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    assert kept(TokenFilter(top_k=1)(logits)) == [1]
    assert kept(TokenFilter(top_k=2)(logits)) == [1, 2, 3]
    assert kept(TokenFilter(top_k=4)(logits)) == [0, 1, 2, 3]


def test_top_p_drops_a_token_when_likelier_ones_already_exceed_it() -> None:
    logits = logits_of(0.1, 0.5, 0.25, 0.15)
    assert kept(TokenFilter(top_p=0.2)(logits)) == [1]
    assert kept(TokenFilter(top_p=0.6)(logits)) == [1, 2]
    assert kept(TokenFilter(top_p=0.8)(logits)) == [1, 2, 3]
    assert kept(TokenFilter(top_p=0.95)(logits)) == [0, 1, 2, 3]


def test_top_p_works_on_what_top_k_left_renormalised() -> None:
    logits = logits_of(0.4, 0.3, 0.2, 0.1)
    assert kept(TokenFilter(top_p=0.55)(logits)) == [0, 1]
    # Of the two that top-k leaves, the first holds 4/7 = 0.57.
    assert kept(TokenFilter(top_k=2, top_p=0.55)(logits)) == [0]


def test_the_likeliest_token_always_stays() -> None:
    for token_filter in (TokenFilter(top_p=0.0), TokenFilter(top_p=1e-9, top_k=3)):
        assert kept(token_filter(logits_of(0.4, 0.6))) == [1]


def test_temperature_zero_keeps_the_argmax_alone() -> None:
    filtered = TokenFilter(temperature=0.0, top_k=3)(torch.tensor([[0.0, 2.0, 2.0, 1.0]]))
    assert kept(filtered) == [1]


def test_half_precision_logits_are_filtered_in_fp32() -> None:
    assert TokenFilter(top_p=0.9)(torch.randn(2, 50).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    "settings",
    [{"top_k": -1}, {"top_p": -0.1}, {"top_p": 1.1}, {"top_p": math.nan}, {"temperature": -1.0},
     {"temperature": math.nan}, {"temperature": math.inf}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} got"):
        TokenFilter(**settings)


@pytest.mark.parametrize(
    "token_filter",
    [TokenFilter(), TokenFilter(top_k=6), TokenFilter(top_p=0.8), TokenFilter(top_k=6, top_p=0.7),
     TokenFilter(temperature=1.7), TokenFilter(temperature=0.0)],
    ids=repr,
)  # fmt: skip
def test_draws_have_the_probabilities_of_the_filtered_logits(token_filter: TokenFilter) -> None:
    logits = torch.randn(1, 16)
    logits[0, 3:8] = 0.7  # ties, across the cut of top_k 6
    expected = token_filter(logits).softmax(dim=1)[0]
    # A regular grid of numbers visits every probability in proportion, without luck.
    uniforms = (torch.arange(4096) + 0.5) / 4096
    tokens = draw(token_filter.sort(logits.expand(4096, -1)), uniforms)
    share = torch.bincount(tokens, minlength=16) / 4096
    assert (share - expected).abs().max() < 2 / 4096
    assert not share[expected == 0].any()


def test_each_token_owns_a_half_open_interval_of_numbers() -> None:
    ordered = TokenFilter().sort(logits_of(0.25, 0.5, 0.25))
    for number, token in ((0.0, 1), (0.49, 1), (0.5, 0), (0.74, 0), (0.75, 2), (0.99, 2)):
        assert draw(ordered, torch.tensor([number])).item() == token
    # A sum that is rounded differently from its parts must not lead to a removed token.
    filtered = TokenFilter(top_k=1).sort(logits_of(0.25, 0.5, 0.25))
    assert draw(filtered, torch.tensor([1.0])).item() == 1


def test_extreme_random_numbers_draw_kept_tokens_only() -> None:
    logits = torch.randn(128, 1000)
    largest = torch.full((128,), 1 - 2**-24)
    for token_filter in (TokenFilter(top_k=7), TokenFilter(top_p=0.5)):
        for uniforms in (torch.zeros(128), largest):
            tokens = draw(token_filter.sort(logits), uniforms)
            assert token_filter(logits).gather(1, tokens[:, None]).isfinite().all()
        assert torch.equal(draw(token_filter.sort(logits), torch.zeros(128)), logits.argmax(dim=1))


def test_a_row_is_drawn_alike_alone_and_in_a_batch() -> None:
    logits, uniforms = torch.randn(9, 64), torch.rand(9)
    token_filter = TokenFilter(top_k=20, top_p=0.9)
    together = draw(token_filter.sort(logits), uniforms)
    for i in range(9):
        alone = draw(token_filter.sort(logits[i : i + 1]), uniforms[i : i + 1])
        assert alone.item() == together[i].item()


def tied_logits(n_samples: int) -> Tensor:
    return (torch.randn(n_samples, 50) * 2).round() / 2


SETTINGS = [
    {"top_k": 12},
    {"top_p": 0.7},
    {"top_k": 20, "top_p": 0.8},
    {},
    {"top_k": 9, "top_p": 0.6, "temperature": 0.8},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_draws_follow_the_softmax_of_the_filtered_logits(settings: dict, ties: bool) -> None:
    token_filter, n_draws = TokenFilter(**settings), 20_000
    logits = tied_logits(1) if ties else torch.randn(1, 50)
    expected = token_filter(logits).softmax(dim=1)[0] * n_draws
    drawn = draw_token(token_filter, logits.expand(n_draws, -1), torch.rand(n_draws))
    counts = torch.bincount(drawn, minlength=50)
    assert counts[expected == 0].sum() == 0
    likely = expected >= 5  # where the statistic's distribution is known
    chi_square = float(((counts - expected)[likely] ** 2 / expected[likely]).sum())
    n_free = int(likely.sum()) - 1
    assert chi_square < n_free + 5 * (2 * n_free) ** 0.5


@pytest.mark.parametrize("top_k", [1, 2, 7, 20, 49])
@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("ties", [False, True])
def test_every_share_of_the_uniform_numbers_is_right_with_top_k(
    top_k: int, top_p: float, ties: bool
) -> None:
    token_filter, n = TokenFilter(top_k=top_k, top_p=top_p), 20_000
    logits = tied_logits(1) if ties else torch.randn(1, 50)
    drawn = draw_token(token_filter, logits.expand(n, -1), torch.arange(n) / n)
    share = torch.bincount(drawn, minlength=50) / n
    torch.testing.assert_close(share, token_filter(logits).softmax(dim=1)[0], rtol=0, atol=2e-4)


def test_all_logits_equal_are_drawn_alike_though_top_k_is_one() -> None:
    drawn = draw_token(TokenFilter(top_k=1), torch.zeros(100, 10), torch.arange(100) / 100)
    assert torch.equal(torch.bincount(drawn), torch.full((10,), 10))
