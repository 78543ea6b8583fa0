"""Which of several processes this one is."""

from __future__ import annotations

import pytest

from tats.errors import UserError
from tats.sampling.ranks import Place, own_share, place

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "2",
    "SLURM_STEP_ID": "0",
}


def test_torchrun_and_srun_tell_a_process_its_place() -> None:
    assert place(TORCHRUN) == Place(rank=3, world_size=4, local_rank=1)
    assert place(SRUN) == Place(rank=5, world_size=8, local_rank=2)
    assert place({**SRUN, **TORCHRUN}) == Place(rank=3, world_size=4, local_rank=1)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "4"},
        {"RANK": "1"},
        {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"},
        # A batch script that calls Python without srun:
        {"SLURM_JOB_ID": "9", "SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"},
    ],
)
def test_variables_without_their_launcher_mean_one_process(environment) -> None:
    assert place(environment) == Place(rank=0, world_size=1, local_rank=0)


@pytest.mark.parametrize("change", [{"RANK": "4"}, {"RANK": "one"}, {"LOCAL_RANK": "-1"}])
def test_an_impossible_place_is_refused(change) -> None:
    with pytest.raises(UserError, match="expected"):
        place({**TORCHRUN, **change})


def test_shares_are_all_items_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(3):
        for name, value in {**TORCHRUN, "RANK": str(rank), "WORLD_SIZE": "3"}.items():
            monkeypatch.setenv(name, value)
        shares.append(list(own_share(range(8))))
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]
