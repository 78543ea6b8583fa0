"""Token filters and the draw: exact sets, exact probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tats.randomness import draw_keys, gumbel_noise
from tats.sampling import TokenFilter
from tats.sampling.draw import draw_token


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


def tied_logits(n_samples: int) -> Tensor:
    return (torch.randn(n_samples, 50) * 2).round() / 2


def by_sorting(token_filter: TokenFilter, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Which tokens are kept, by the definition; and how far each is from top-p's limit."""
    values, tokens = (logits.float() / token_filter.temperature).sort(
        dim=1, descending=True, stable=True
    )
    if 0 < token_filter.top_k < values.shape[1]:
        values = values.masked_fill(values < values[:, [token_filter.top_k - 1]], -torch.inf)
    before = values.double().softmax(dim=1).cumsum(dim=1).roll(1, dims=1)
    before[:, 0] = 0.0
    margin = before - token_filter.top_p
    kept = values.isfinite() & ((margin <= 0) | (token_filter.top_p == 1.0))
    kept[:, 0] = True
    back = tokens.argsort(dim=1)
    return kept.gather(1, back), margin.abs().gather(1, back)


SETTINGS = [
    {"top_k": 12},
    {"top_p": 0.7},
    {"top_k": 20, "top_p": 0.8},
    {},
    {"top_k": 9, "top_p": 0.6, "temperature": 0.8},
    {"top_k": 1},
    {"top_k": 49, "top_p": 0.999},
    {"top_p": 0.0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["apart", "tied", "equal", "steep"])
def test_kept_tokens_are_those_of_the_definition(settings: dict, kind: str) -> None:
    token_filter = TokenFilter(**settings)
    logits = {
        "apart": torch.randn(500, 50),
        "tied": tied_logits(500),
        "equal": torch.full((3, 50), 0.7),
        "steep": torch.randn(500, 50) * 200,  # most probabilities are 0 in float32
    }[kind]
    expected, margin = by_sorting(token_filter, logits)
    differs = token_filter(logits).isfinite() != expected
    assert not (differs & (margin > 1e-5)).any()
    assert differs.float().mean() <= 1 / 50  # rounding at the limit itself


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_draws_follow_the_softmax_of_the_filtered_logits(settings: dict, ties: bool) -> None:
    token_filter, n_draws = TokenFilter(**settings), 20_000
    logits = tied_logits(1) if ties else torch.randn(1, 50)
    expected = token_filter(logits).softmax(dim=1)[0] * n_draws
    keys = draw_keys([3], n_draws)[0]
    drawn = draw_token(token_filter, logits.expand(n_draws, -1), keys)
    counts = torch.bincount(drawn, minlength=50)
    assert counts[expected == 0].sum() == 0
    likely = expected >= 5  # where the statistic's distribution is known
    chi_square = float(((counts - expected)[likely] ** 2 / expected[likely]).sum())
    n_free = int(likely.sum()) - 1
    assert chi_square <= n_free + 5 * (2 * n_free) ** 0.5


def test_a_row_is_drawn_alike_alone_and_in_a_batch() -> None:
    logits, keys = torch.randn(9, 64), draw_keys(range(9), 1)[:, 0]
    token_filter = TokenFilter(top_k=20, top_p=0.9)
    together = draw_token(token_filter, logits, keys)
    for i in range(9):
        alone = draw_token(token_filter, logits[i : i + 1], keys[i : i + 1])
        assert alone.item() == together[i].item()


def test_a_token_is_drawn_again_when_logits_move_a_little() -> None:
    logits, keys = torch.randn(4000, 50), draw_keys(range(4000), 1)[:, 0]
    token_filter = TokenFilter(top_k=30, top_p=0.95)
    drawn = draw_token(token_filter, logits, keys)
    moved = draw_token(token_filter, logits + 0.01 * torch.randn_like(logits), keys)
    assert (moved == drawn).float().mean() > 0.97


def test_tokens_beyond_the_filter_do_not_change_the_others_noise() -> None:
    """What a code draws does not depend on how many there are."""
    keys = draw_keys(range(5), 3)[:, 2]
    assert torch.equal(gumbel_noise(keys, 100)[:, :40], gumbel_noise(keys, 40))
