"""Comparing with the published code's reference outputs, and reporting how close we came."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

REPORT_START, REPORT_END = "<!-- parity table: start -->", "<!-- parity table: end -->"


class Group(NamedTuple):
    """How the values of one group compare."""

    tolerance: str
    count: int
    worst: float  # difference; number of values that differ where none may
    share: float  # of the tolerance


class Parity:
    """Asserts agreement and remembers the worst difference of each group.

    Differences are reported as such, and as a share of what the tolerance allows: 1 is the limit.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}

    def exact(self, group: str, got: Tensor, want: Tensor) -> None:
        """Every value equal (codes, tokens, pixels)."""
        got, want = torch.as_tensor(got), torch.as_tensor(want)
        assert got.shape == want.shape, f"{group}: got {got.shape}; expected {want.shape}"
        differing = int((got != want).sum())
        self._record(group, Group("exact", want.numel(), differing, differing))
        assert differing == 0, f"{group}: {differing} of {want.numel()} values differ"

    def same(self, group: str, got: Sequence[Any], want: Sequence[Any]) -> None:
        """Texts or lists equal; counted by their characters or entries."""
        self._record(group, Group("exact", len(want), int(got != want), int(got != want)))
        assert got == want, f"{group}: got {got!r}; expected {want!r}"

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
        assert want.numel() > 0, f"{group}: nothing to compare"
        allowed = rtol * want.abs() + atol + of_largest * want.abs().max()
        difference = (got - want).abs()
        # 0 allowed and 0 different is agreement.
        share = float((difference / allowed.clamp_min(1e-300)).max())
        tolerance = " + ".join(
            f"{value:g}{unit}"
            for value, unit in ((rtol, "·\\|x\\|"), (of_largest, "·max\\|x\\|"), (atol, ""))
            if value
        )
        self._record(group, Group(tolerance, want.numel(), float(difference.max()), share))
        assert share <= 1, f"{group}: worst difference is {share:.2f} times the tolerance"

    def activations(self, group: str, got: Tensor, want: Tensor) -> None:
        """Agreement of activations, logits and decoded video."""
        self.close(group, got, want, rtol=1e-4, of_largest=2e-5)

    def _record(self, group: str, new: Group) -> None:
        old = self.groups.get(group, new._replace(count=0))
        looser = new.tolerance if new.share >= old.share else old.tolerance
        self.groups[group] = Group(
            looser, old.count + new.count, max(old.worst, new.worst), max(old.share, new.share)
        )

    def table(self) -> str:
        """Markdown table: group, tolerance, values compared, worst difference and its share."""
        lines = [
            "| group | tolerance | values | worst difference | of the tolerance |",
            "|---|---|---:|---:|---:|",
        ]
        for name, group in sorted(self.groups.items()):
            shown = "0" if not group.worst else f"{group.worst:.1e}"
            share = "" if group.tolerance == "exact" else f"{group.share:.1%}"
            cells = (name, group.tolerance, f"{group.count:,}", shown, share)
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-report",
        type=Path,
        help="write the table of differences between this file's marks",
    )


def pytest_configure(config: pytest.Config) -> None:
    report = config.getoption("--parity-report")
    if not report:
        return
    if getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--parity-report needs all tests in one process: leave out -n")
    if not report.is_file() or REPORT_START not in report.read_text(encoding="utf-8"):
        raise pytest.UsageError(f"--parity-report {report} has no line {REPORT_START}")


@pytest.fixture(scope="session")
def parity(request: pytest.FixtureRequest) -> Iterator[Parity]:
    """One comparison for the whole session; its table goes to ``--parity-report``.

    A session that failed, or compared nothing, leaves the report as it was.
    """
    comparison = Parity()
    yield comparison
    report = request.config.getoption("--parity-report")
    if report and comparison.groups and not request.session.testsfailed:
        text = report.read_text(encoding="utf-8")
        before, _, rest = text.partition(REPORT_START)
        _, _, after = rest.partition(REPORT_END)
        table = f"{REPORT_START}\n{comparison.table()}\n{REPORT_END}"
        with tempfile.NamedTemporaryFile("w", dir=report.parent, delete=False) as new:
            new.write(before + table + after)
        Path(new.name).chmod(report.stat().st_mode)
        Path(new.name).replace(report)


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
