"""Comparing with the published code's reference outputs, and reporting how close we came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


class Parity:
    """Asserts agreement and remembers the worst difference of each group.

    Differences are reported as a share of what the tolerance allows, so 1 is the limit.
    """

    def __init__(self) -> None:
        self.worst: dict[str, tuple[str, float, int]] = {}

    def exact(self, group: str, got: Tensor, want: Tensor) -> None:
        """Every value equal (codes, tokens, pixels)."""
        got, want = torch.as_tensor(got), torch.as_tensor(want)
        assert got.shape == want.shape, f"{group}: got {got.shape}; expected {want.shape}"
        differing = int((got != want).sum())
        self._record(group, "exact", float(differing), want.numel())
        assert differing == 0, f"{group}: {differing} of {want.numel()} values differ"

    def close(
        self,
        group: str,
        got: Tensor | float,
        want: Tensor,
        *,
        rtol: float,
        atol: float = 0.0,
        of_largest: float = 0.0,
    ) -> None:
        """|got - want| <= rtol·|want| + atol + of_largest·max|want| everywhere."""
        got = torch.as_tensor(got, dtype=torch.float64).detach()
        want = torch.as_tensor(want, dtype=torch.float64)
        assert got.shape == want.shape, f"{group}: got {got.shape}; expected {want.shape}"
        allowed = rtol * want.abs() + atol + of_largest * want.abs().max()
        difference = (got - want).abs()
        # 0 allowed and 0 different is agreement.
        share = float((difference / allowed.clamp_min(1e-300)).max()) if want.numel() else 0.0
        tolerance = " + ".join(
            f"{value:g}{unit}"
            for value, unit in ((rtol, "·|x|"), (of_largest, "·max|x|"), (atol, ""))
            if value
        )
        self._record(group, tolerance, share, want.numel())
        assert share <= 1, f"{group}: worst difference is {share:.2f} times the tolerance"

    def activations(self, group: str, got: Tensor, want: Tensor) -> None:
        """Agreement of activations, logits and decoded video."""
        self.close(group, got, want, rtol=1e-4, of_largest=2e-5)

    def _record(self, group: str, tolerance: str, share: float, count: int) -> None:
        _, worst, so_far = self.worst.get(group, ("", 0.0, 0))
        self.worst[group] = (tolerance, max(worst, share), so_far + count)

    def table(self) -> str:
        """Markdown table: group, tolerance, values compared, worst share of the tolerance."""
        lines = ["| group | tolerance | values | worst / tolerance |", "|---|---|---:|---:|"]
        for group, (tolerance, share, count) in sorted(self.worst.items()):
            shown = f"{share:.0f} differ" if tolerance == "exact" else f"{share:.3f}"
            lines.append(f"| {group} | {tolerance} | {count:,} | {shown} |")
        return "\n".join(lines) + "\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-report", help="write the table of differences to this file")


@pytest.fixture(scope="session")
def parity(request: pytest.FixtureRequest) -> Iterator[Parity]:
    """One comparison for the whole session; its table goes to ``--parity-report``."""
    comparison = Parity()
    yield comparison
    report = request.config.getoption("--parity-report")
    if report:
        Path(report).write_text(comparison.table())


class Reference:
    """Reads reference files by their path below the reference folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def tensors(self, path: str) -> dict[str, Tensor]:
        """Tensors of a safetensors file."""
        return load_file(self.folder / path)

    def json(self, path: str):
        """Content of a JSON file."""
        return json.loads((self.folder / path).read_text())


@pytest.fixture(scope="session")
def reference(goldens: Path) -> Reference:
    """The reference files; skips where there are none."""
    return Reference(goldens)
