"""Which tokens may be drawn, and with what probability: temperature, top-k, nucleus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class SortedLogits(NamedTuple):
    """Logits (B, V) from likely to unlikely, removed ones -inf, and the token of each."""

    logits: Float[Tensor, "B V"]
    tokens: Int[Tensor, "B V"]


@dataclass(frozen=True)
class TokenFilter:
    """Narrows the distribution a token is drawn from; called on logits, gives filtered logits.

    The order is temperature, then top-k, then nucleus on what top-k left (renormalised).

    Args:
        top_k: keep the k likeliest tokens and all that tie with the k-th; 0 keeps all.
        top_p: drop a token when those likelier than it already hold more than this much
            probability, in [0, 1]; the likeliest always stays; 1 keeps all.
        temperature: divides the logits, >= 0; 0 keeps only the likeliest token.

    Raises:
        ValueError: a setting is out of range.

    Source: Ge et al. §4.1; D6 (top_p works without top_k).
    """

    top_k: int = 0
    top_p: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise ValueError(f"top_k got {self.top_k}; expected 0 (off) or more")
        if not 0.0 <= self.top_p <= 1.0:
            raise ValueError(f"top_p got {self.top_p}; expected 0 to 1 (off)")
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature got {self.temperature}; expected 0 (greedy) or more")

    @property
    def greedy(self) -> bool:
        """Whether only the likeliest token is left, so that nothing is random."""
        return self.temperature == 0.0

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Filter logits.

        Args:
            logits: (B, V), any floating type.

        Returns:
            Float32 (B, V): logits over temperature, -inf where a token is removed.
        """
        ordered = self.sort(logits)
        return torch.empty_like(ordered.logits).scatter_(1, ordered.tokens, ordered.logits)

    def sort(self, logits: Float[Tensor, "B V"]) -> SortedLogits:
        """Filter logits and leave them sorted, which is what drawing needs.

        Args:
            logits: (B, V), any floating type.

        Returns:
            Float32 logits, descending (equal ones by token), and their tokens, both (B, V).
        """
        values, tokens = logits.float().sort(dim=1, descending=True, stable=True)
        if self.greedy:
            return SortedLogits(_remove_after_first(values), tokens)
        values = values / self.temperature
        if 0 < self.top_k < values.shape[1]:
            least = values[:, self.top_k - 1 : self.top_k]
            values = values.masked_fill(values < least, -torch.inf)
        if self.top_p < 1.0:
            likelier = values.softmax(dim=1).cumsum(dim=1).roll(1, dims=1)
            likelier[:, 0] = 0.0
            values = values.masked_fill(likelier > self.top_p, -torch.inf)
        return SortedLogits(values, tokens)


def draw_token(
    token_filter: TokenFilter, logits: Float[Tensor, "B V"], uniforms: Float[Tensor, " B"]
) -> Int[Tensor, " B"]:
    """Draw one token a sample from its filtered distribution.

    With top-k on, only the k likeliest logits are sorted. The tokens that tie with the k-th, of
    which there may be more than fit, stand behind the others as one entry with one weight each.

    Args:
        token_filter: what may be drawn, and how likely.
        logits: (B, V), any floating type.
        uniforms: float32 (B,) in [0, 1): the random number that decides.

    Returns:
        Tokens, int64 (B,).
    """
    if token_filter.greedy:
        return logits.argmax(dim=1)
    if not 0 < token_filter.top_k < logits.shape[1]:
        return draw(token_filter.sort(logits), uniforms)
    logits = logits.float() / token_filter.temperature
    values, tokens = _top_sorted(logits, token_filter.top_k)  # (B, k)
    ties = logits == values[:, -1:]  # (B, V), in the order of their tokens
    n_ties = ties.sum(dim=1, keepdim=True)
    weights = (values - values[:, :1]).exp()
    tie_weight = weights[:, -1:]
    weights = weights.masked_fill(values == values[:, -1:], 0.0)
    cumulative = weights.cumsum(dim=1)
    if token_filter.top_p < 1.0:
        limit = token_filter.top_p * (cumulative[:, -1:] + n_ties * tie_weight)
        before = cumulative - weights
        before[:, 0] = 0.0
        weights = weights.masked_fill(before > limit, 0.0)
        n_inside = ((limit - cumulative[:, -1:]) / tie_weight).floor() + 1
        # The likeliest always stays, also when it is one of the ties.
        least_ties = (weights[:, :1] == 0).long()
        n_ties = n_inside.clamp(min=0).long().minimum(n_ties).maximum(least_ties)
        cumulative = weights.cumsum(dim=1)
    target = uniforms[:, None] * (cumulative[:, -1:] + n_ties * tie_weight)
    last_kept = ((weights > 0).sum(dim=1, keepdim=True) - 1).clamp(min=0)
    place = torch.searchsorted(cumulative, target, right=True).minimum(last_kept)
    into_ties = target - cumulative[:, -1:]
    number = (into_ties / tie_weight).floor().long().clamp(min=0).minimum(n_ties - 1)
    tied = (ties.cumsum(dim=1) == number + 1).int().argmax(dim=1, keepdim=True)
    is_tied = (into_ties >= 0) & (n_ties > 0)
    return torch.where(is_tied, tied, tokens.gather(1, place))[:, 0]


def _top_sorted(
    logits: Float[Tensor, "B V"], k: int
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
    """The k largest logits (B, V), descending, equal ones by token; values and tokens (B, k)."""
    tokens = logits.topk(k, dim=1, sorted=False).indices.sort(dim=1).values
    values, order = logits.gather(1, tokens).sort(dim=1, descending=True, stable=True)
    return values, tokens.gather(1, order)


def draw(ordered: SortedLogits, uniforms: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Turn one uniform number a sample into one token, by the inverse of the distribution.

    Args:
        ordered: filtered logits (B, V) from likely to unlikely.
        uniforms: float32 (B,) in [0, 1).

    Returns:
        Tokens, int64 (B,).
    """
    probabilities = ordered.logits.softmax(dim=1)
    cumulative = probabilities.cumsum(dim=1)
    # Sums made in parallel are rounded differently, so the last kept token may not reach the total.
    target = uniforms[:, None] * cumulative[:, -1:]
    last_kept = (probabilities > 0).sum(dim=1, keepdim=True) - 1
    place = torch.searchsorted(cumulative, target, right=True).minimum(last_kept)
    return ordered.tokens.gather(1, place)[:, 0]


def _remove_after_first(values: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    kept = torch.full_like(values, -torch.inf)
    kept[:, 0] = values[:, 0]
    return kept
