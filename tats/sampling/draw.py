"""Which tokens may be drawn (temperature, top-k, nucleus), and which one is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tats.randomness import gumbel_noise


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

        Only as many are sorted as top-k keeps. Tokens that tie with the last one kept are kept
        in the order of their numbers, as far as top-p lets them.

        Args:
            logits: of any floating type.

        Returns:
            Float32: logits over temperature, -inf where a token is removed.
        """
        logits = logits.float()
        if self.greedy:
            likeliest = logits.argmax(dim=1, keepdim=True)
            kept = torch.full_like(logits, -torch.inf)
            return kept.scatter_(1, likeliest, logits.gather(1, likeliest))
        logits = logits / self.temperature
        narrow = 0 < self.top_k < logits.shape[1]
        if not narrow and self.top_p >= 1.0:
            return logits
        values = logits.topk(self.top_k if narrow else logits.shape[1], dim=1).values  # descending
        if self.top_p >= 1.0:
            return logits.masked_fill(logits < values[:, -1:], -torch.inf)
        least, n_kept = self._nucleus(logits, values)
        tied = logits == least
        kept = (logits > least) | (tied & (tied.cumsum(dim=1) <= n_kept))
        return logits.masked_fill(~kept, -torch.inf)

    def _nucleus(self, logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The least logit that top-p keeps, and how many tokens of it, both (B, 1)."""
        last = values[:, -1:]
        weights = (values - values[:, :1]).exp()
        tie_weight = weights[:, -1:].clamp_min(torch.finfo(weights.dtype).tiny)
        weights = weights.masked_fill(values == last, 0.0)  # counted by number, all of them
        n_ties = (logits == last).sum(dim=1, keepdim=True)
        cumulative = weights.cumsum(dim=1)
        limit = self.top_p * (cumulative[:, -1:] + n_ties * tie_weight)
        inside = (weights > 0) & (cumulative - weights <= limit)
        inside[:, 0] |= weights[:, 0] > 0  # the likeliest always stays
        n_inside = inside.sum(dim=1, keepdim=True)
        # Where all likelier ones are inside, so are as many of the tied as find room.
        room = ((limit - cumulative[:, -1:]) / tie_weight).floor() + 1
        n_tied = room.clamp(min=0).minimum(n_ties.float()).long().maximum((n_inside == 0).long())
        n_tied = n_tied.masked_fill(n_inside < (weights > 0).sum(dim=1, keepdim=True), 0)
        least = torch.where(n_tied > 0, last, values.gather(1, (n_inside - 1).clamp(min=0)))
        n_equal = (inside & (values == least)).sum(dim=1, keepdim=True)
        return least, torch.where(n_tied > 0, n_tied, n_equal)


def draw_token(
    token_filter: TokenFilter, logits: Float[Tensor, "B V"], keys: Int[Tensor, "B 2"]
) -> Int[Tensor, " B"]:
    """Draw one token a sample from its filtered distribution: the largest of logit + noise.

    The noise (Gumbel's, which makes the largest a draw from the softmax) belongs to the key and
    the token. So no token's chance depends on how the others are sorted, and where logits move a
    little, the same token is almost always drawn again.

    Args:
        token_filter: what may be drawn, and how likely.
        logits: of any floating type.
        keys: what decides, see ``draw_keys``.
    """
    if token_filter.greedy:
        return logits.argmax(dim=1)
    filtered = token_filter(logits)
    return (filtered + gumbel_noise(keys, filtered.shape[1])).argmax(dim=1)
