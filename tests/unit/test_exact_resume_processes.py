"""Resuming with another number of processes goes on with the next clip."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

N_CLIPS = 9
PROGRAM = """
import json, os, sys
import torch
from pytorch_lightning import LightningModule, Trainer
from small_data import data_args
from tats.data import VideoData

path, folder, n_processes, n_steps, checkpoint = sys.argv[1:6]

class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        clips = [round(float(clip.double().sum()), 6) for clip in batch["video"]]
        self.seen.append(clips)
        return self.weight * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

model = Model()
trainer = Trainer(
    max_steps=int(n_steps), accelerator="cpu", devices=int(n_processes), logger=False,
    strategy="ddp" if n_processes != "1" else "auto", enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
)
data = VideoData(data_args(path, seed=4, batch_size=2))
trainer.fit(model, datamodule=data, ckpt_path=checkpoint or None)
trainer.save_checkpoint(f"{folder}/c{n_steps}.ckpt")
with open(f"{folder}/seen{n_steps}-{trainer.global_rank}.json", "w") as file:
    json.dump(model.seen, file)
"""


def seen_by(root: Path, n_processes: int, n_steps: int, checkpoint: str = "") -> list[float]:
    """Train some steps; return the clips in the order of the epoch."""
    script = root / "train.py"
    script.write_text(PROGRAM)
    command = [sys.executable, script, root / "clips.h5", root, n_processes, n_steps, checkpoint]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    files = [root / f"seen{n_steps}-{rank}.json" for rank in range(n_processes)]
    parts = [json.loads(file.read_text()) for file in files]
    return [
        clip for step in zip(*parts, strict=True) for place in zip(*step, strict=True)
        for clip in place
    ]  # fmt: skip


def test_one_then_two_then_one_process_see_the_clips_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).resolve().parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}:{tests}")
    numbers = np.random.default_rng(0)
    with h5py.File(tmp_path / "clips.h5", "w") as file:
        for split in ("train", "test"):
            size = (N_CLIPS * 6, 16, 16, 3)
            file[f"{split}_data"] = numbers.integers(256, size=size, dtype=np.uint8)
            file[f"{split}_idx"] = 6 * np.arange(N_CLIPS + 1)
    alone = seen_by(tmp_path, 1, 7)  # batches of 2, 2, 2, 2, 1 and 2, 2 clips
    first = seen_by(tmp_path, 1, 1)  # 2 clips
    then = seen_by(tmp_path, 2, 2, str(tmp_path / "c1.ckpt"))  # 4 more, in one step
    last = seen_by(tmp_path, 1, 6, str(tmp_path / "c2.ckpt"))  # 2, 1, 2, 2
    assert (len(first), len(then), len(last)) == (2, 4, 7)
    assert first + then + last == alone
