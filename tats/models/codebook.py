"""The VQGAN's codebook: nearest-code lookup, learned by exponential moving averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from tats.models.precision import keeping_format, without_autocast

DECAY = 0.99
COUNT_EPSILON = 1e-7
COMMITMENT_WEIGHT = 0.25
# Distances held at once, from some rows to all codes: 32 MiB, which a processor's caches can help.
DISTANCES_PER_CHUNK = 2**23


class Quantized(NamedTuple):
    """What the codebook makes of a grid of features."""

    embeddings: Float[Tensor, "B D t h w"]  # straight-through: its gradient is the features'
    codes: Int[Tensor, "B t h w"]
    commitment_loss: Float[Tensor, ""]
    perplexity: Float[Tensor, ""]  # effective number of codes in use, over all ranks


def _sum_over_ranks(x: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x)
    return x


def _rows(features: Float[Tensor, "B D t h w"]) -> Float[Tensor, "n D"]:
    return rearrange(features.float(), "b d t h w -> (b t h w) d")


class Codebook(nn.Module):
    """Codes learned as running means of the features assigned to them; no gradient.

    All arithmetic is in float32 whatever the surrounding precision, and a cast of the module
    leaves the codebook as it is: the running means decay by 1 % a step, below what half precision
    resolves, and so are the distances between codes that lie close together.

    Args:
        n_codes: number of codes.
        embedding_dim: length of one code.
        random_restart: replace rarely used codes by random features of the batch.
        restart_threshold: running count below which a code is rarely used.

    Source: Ge et al. §3.1; update rule of van den Oord et al. 2017, appendix A.1.
    """

    embeddings: Float[Tensor, "n_codes D"]
    N: Float[Tensor, " n_codes"]
    z_avg: Float[Tensor, "n_codes D"]

    def __init__(
        self,
        *,
        n_codes: int,
        embedding_dim: int,
        random_restart: bool = True,
        restart_threshold: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.randn(n_codes, embedding_dim, dtype=torch.float32))
        self.register_buffer("N", torch.zeros(n_codes, dtype=torch.float32))
        self.register_buffer("z_avg", self.embeddings.clone())
        self.n_codes = n_codes
        self.random_restart = random_restart
        self.restart_threshold = restart_threshold
        # Whether N was seen to be positive: asked once, since asking waits for the device.
        self._known_initialised = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known_initialised = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        """Follow a move to another device, but no change of number format."""
        return super()._apply(keeping_format(fn), recurse)

    def nearest(self, rows: Float[Tensor, "n D"]) -> Int[Tensor, " n"]:
        """Index of the nearest code by squared distance.

        Args:
            rows: in float32, without a gradient.

        Returns:
            int64, each in [0, n_codes); of codes equally near, the lowest.
        """
        # |row|² is the same for every code, so it plays no part in the argmin.
        squared_norms = self.embeddings.square().sum(dim=1)
        chunks = rows.split(max(1, DISTANCES_PER_CHUNK // self.n_codes))
        memory = rows.new_empty((len(chunks[0]), self.n_codes))
        codes = []
        for chunk in chunks:
            distances = memory[: len(chunk)]
            torch.addmm(squared_norms, chunk, self.embeddings.t(), alpha=-2, out=distances)
            codes.append(distances.argmin(dim=1))
        return torch.cat(codes)

    def lookup(self, codes: Int[Tensor, "B t h w"]) -> Float[Tensor, "B D t h w"]:
        """Embed codes, in float32."""
        return rearrange(F.embedding(codes, self.embeddings), "b t h w d -> b d t h w")

    def encode(self, features: Float[Tensor, "B D t h w"]) -> Int[Tensor, "B t h w"]:
        """Quantize features to codes, by float32 distances; learns nothing."""
        b, _, t, h, w = features.shape
        with without_autocast(features):
            return self.nearest(_rows(features.detach())).view(b, t, h, w)

    def forward(self, features: Float[Tensor, "B D t h w"]) -> Quantized:
        """Quantize features and, in training mode, learn from them.

        Codes and embeddings come from the codebook as it was before this batch's update.

        Args:
            features: in any float format.

        Returns:
            Quantized, in float32.
        """
        with without_autocast(features):
            features = features.float()
            rows = _rows(features.detach())
            if self.training:
                self._initialise_once(rows)
            codes = self.encode(features)
            embedded = self.lookup(codes)

            counts = torch.zeros_like(self.N).index_add_(
                0, codes.flatten(), torch.ones_like(rows[:, 0])
            )
            _sum_over_ranks(counts)
            if self.training:
                self._learn(rows, codes.flatten(), counts)

            usage = counts / counts.sum()
            return Quantized(
                embeddings=features + (embedded - features).detach(),
                codes=codes,
                commitment_loss=COMMITMENT_WEIGHT * F.mse_loss(features, embedded),
                perplexity=torch.exp(-torch.sum(usage * torch.log(usage + 1e-10))),
            )

    def _draw_rows(self, rows: Float[Tensor, "n D"]) -> Float[Tensor, "n_codes D"]:
        """Draw n_codes random rows of the batch, rank 0's on every rank.

        Where the batch has fewer rows than there are codes it is repeated, with a little noise
        so that no two codes are equal.
        """
        n_rows, width = rows.shape
        if n_rows < self.n_codes:
            repeats = -(-self.n_codes // n_rows)
            rows = rows.repeat(repeats, 1)
            rows = rows + torch.randn_like(rows) * 0.01 / width**0.5
        drawn = rows[torch.randperm(len(rows))[: self.n_codes].to(rows.device)].contiguous()
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(drawn, 0)
        return drawn

    @torch.no_grad()
    def _initialise_once(self, rows: Float[Tensor, "n D"]) -> None:
        """Start the codes at features of the first training batch, unless they were loaded."""
        if self._known_initialised:
            return
        if not bool(self.N.sum() > 0):
            drawn = self._draw_rows(rows)
            self.embeddings.copy_(drawn)
            self.z_avg.copy_(drawn)
            self.N.fill_(1)
        self._known_initialised = True

    @torch.no_grad()
    def _learn(
        self,
        rows: Float[Tensor, "n D"],
        codes: Int[Tensor, " n"],
        counts: Float[Tensor, " n_codes"],
    ) -> None:
        """Move counts, sums and codes towards this batch, then restart rarely used codes."""
        sums = _sum_over_ranks(torch.zeros_like(self.z_avg).index_add_(0, codes, rows))
        self.N.mul_(DECAY).add_(counts, alpha=1 - DECAY)
        self.z_avg.mul_(DECAY).add_(sums, alpha=1 - DECAY)
        total = self.N.sum()
        smoothed = (self.N + COUNT_EPSILON) / (total + self.n_codes * COUNT_EPSILON) * total
        self.embeddings.copy_(self.z_avg / smoothed[:, None])
        # Drawn at every step, used or not, so that a run with and one without restarts see the
        # same random numbers everywhere else (the published behaviour).
        drawn = self._draw_rows(rows)
        if self.random_restart:
            rare = self.N.lt(self.restart_threshold)
            # Only `embeddings` restarts: N and z_avg win it back at the next update unless the
            # code is used by then (D19, kept).
            self.embeddings.copy_(torch.where(rare[:, None], drawn, self.embeddings))
