"""--device, read and tried in one place."""

from __future__ import annotations

import pytest
import torch

from tats.devices import choose_device
from tats.errors import UserError


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend that there are four; tensors go to a device that needs none."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: torch.ones(*size))
    return monkeypatch


def test_without_a_gpu_auto_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("variable", "value", "number"),
    [("PATH", "", 0), ("LOCAL_RANK", "2", 2), ("SLURM_LOCALID", "3", 3), ("LOCAL_RANK", "5", 1)],
)
def test_auto_is_this_processs_own_gpu(
    four_gpus: pytest.MonkeyPatch, variable: str, value: str, number: int
) -> None:
    four_gpus.setenv(variable, value)
    assert choose_device("auto") == torch.device("cuda", number)
    assert choose_device("cuda:1") == torch.device("cuda", 1)


def test_a_local_rank_that_is_no_number_is_refused(four_gpus: pytest.MonkeyPatch) -> None:
    four_gpus.setenv("LOCAL_RANK", "first")
    with pytest.raises(UserError, match=r"LOCAL_RANK .* got 'first' for --device auto"):
        choose_device("auto")


@pytest.mark.parametrize("text", ["cuda:99", "tpu", "", "meta", "1e9"])
def test_a_device_that_is_not_here_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"--device got .*expected auto, cpu, cuda") as caught:
        choose_device(text)
    assert "\n" not in str(caught.value)
