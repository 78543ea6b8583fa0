"""A sampler without a network, and a command that runs it in a process of its own."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tats.errors import one_line_errors
from tats.sampling import claims, runs
from tats.sampling.run_files import Outputs
from tats.sampling.runs import sample_range, write_run


@dataclass
class FakeSampler:
    """Makes clips of noise: each code is a function of the seed, the sample and its place.

    Args:
        seed: as a sampler's.
        n_latents: latent frames of a clip, two frames each.
        device: what it says it works on.
        settings: what else samples depend on.
        seconds: how long a latent frame of a batch takes.
        windows: which windows were written, (samples, latent frame).
    """

    seed: int = 0
    n_latents: int = 4
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    windows: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    bytes_per_sample = 1 << 20

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.n_latents, 2, 2

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        return 2 * self.n_latents, 16, 16

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "fake", "n_latents": self.n_latents, **self.settings}

    def checkpoints(self) -> dict[str, dict[str, str]]:
        return {"gpt_ckpt": {"given": "a", "file": "/a.ckpt", "sha256": "0" * 64}}

    def describe(self, sample: int) -> dict[str, Any]:
        return {"label": sample % 3}

    def new_canvas(self, samples: Sequence[int]) -> Tensor:
        return torch.full((len(samples), 4 * self.n_latents), -1)

    def stream(self, samples: Sequence[int], canvas: Tensor) -> Iterator[Tensor]:
        for latent in range(self.n_latents):
            window = canvas[:, 4 * latent : 4 * latent + 4]
            if (window < 0).any():
                self.windows.append((tuple(samples), latent))
                time.sleep(self.seconds)
                for row, sample in zip(window, samples, strict=True):
                    mixed = (self.seed + 1) * 1_000_003 + sample * 1009 + latent
                    row.copy_(torch.arange(mixed, mixed + 4) * 7919 % 256)
            pixels = window.reshape(-1, 1, 2, 2, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
            yield pixels.expand(-1, 2, -1, -1, 3).to(torch.uint8)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run the sampler and print its result."""
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = argparse.ArgumentParser()
    parser.add_argument("--save", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n_sample", type=int, default=6)
    parser.add_argument("--n_latents", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--dead_seconds", type=float, default=claims.DEAD_SECONDS)
    args = parser.parse_args(argv)
    claims.DEAD_SECONDS, claims.PATIENCE_SECONDS = args.dead_seconds, 0.0
    claims.BEAT_SECONDS = min(claims.BEAT_SECONDS, args.dead_seconds / 4)
    runs.SECONDS_BETWEEN_KEEPS = 0.0
    sampler = FakeSampler(
        args.seed, args.n_latents, device=torch.device(args.device), seconds=args.seconds
    )
    result = write_run(
        sampler,
        args.save,
        name="fake",
        samples=sample_range(args.n_sample, 0),
        batch_size=args.batch_size,
        outputs=Outputs(codes=True, grids=True),
        overwrite=args.overwrite,
    )
    print(json.dumps({"result": result, "windows": sampler.windows}))


if __name__ == "__main__":
    main()
