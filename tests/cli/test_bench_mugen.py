"""The renderer's benchmark runs and prints its figures as one JSON line."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
from load_script import load_script


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("benchmarks/bench_mugen_frames_per_second.py")


def test_rates_are_printed_with_their_spread(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--resolution", "32", "--n_games", "1", "--n_frames", "3", "--n_repeats", "2"]
    bench.main([*sizes, "--no_record"])
    result = json.loads(capsys.readouterr().out)
    for name in ("frames_per_second", "maps_per_second"):
        rate = result[name]
        assert rate["highest"] >= rate["median"] >= rate["lowest"]
        assert rate["median"] > result["baseline_without_kept_sprites"]["median"]


def test_an_empty_benchmark_is_refused(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.main(["--n_repeats", "0"])
    assert stop.value.code == 2
    assert "--n_repeats got 0; expected at least 1" in capsys.readouterr().err
