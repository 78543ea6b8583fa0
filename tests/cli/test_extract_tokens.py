"""Codes stored once: what is in the file, going on after a kill, and training on it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch
from load_script import load_script
from small_data import data_args
from tiny import save_checkpoint, tiny_transformer, tiny_vqgan

from tats.data import VideoData
from tats.models.vqgan import load_vqgan
from tats.video_io import write_video


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("scripts/extract_tokens.py")
    monkeypatch.setattr(module, "CLIPS_PER_PART", 2)
    return module


@pytest.fixture
def vqgan_file(tmp_path: Path) -> Path:
    """A VQGAN whose codes are features of clips, so that windows have codes of their own."""
    vqgan = tiny_vqgan()
    with torch.no_grad():
        clips = torch.rand(4, 3, 16, 16, 16) - 0.5
        features = vqgan.pre_vq_conv(vqgan.encoder(clips)).movedim(1, -1).flatten(0, -2)
        chosen = torch.linspace(0, len(features) - 1, vqgan.n_codes).long()
        vqgan.codebook.embeddings.copy_(features[chosen])
    return save_checkpoint(vqgan, tmp_path / "vqgan.ckpt")


@pytest.fixture
def command(tmp_path: Path, vqgan_file: Path) -> list[str]:
    """Store the codes of windows of noise, in two classes."""
    for number, name in enumerate(["train/run/a", "train/walk/b", "test/run/c", "test/walk/d"]):
        frames = np.random.RandomState(number).randint(0, 255, (18, 16, 16, 3)).astype(np.uint8)
        write_video(tmp_path / "data" / f"{name}.mp4", frames, fps=8)
    flags = {"vqgan_ckpt": vqgan_file, "data_path": tmp_path / "data", "resolution": 16,
             "sequence_length": 16, "batch_size": 2, "num_workers": 0, "device": "cpu",
             "out": tmp_path / "codes.h5"}  # fmt: skip
    return [word for key, value in flags.items() for word in (f"--{key}", str(value))]


def on_the_fly(tmp_path: Path) -> VideoData:
    return VideoData(data_args(tmp_path / "data", resolution=16, sequence_length=16, seed=1234))


def stored(tmp_path: Path) -> VideoData:
    return VideoData(
        data_args(tmp_path / "codes.h5", resolution=4, sequence_length=4, vtokens=True)
    )


def test_training_on_stored_codes_has_the_loss_of_encoding_on_the_fly(
    script: ModuleType, command: list[str], tmp_path: Path, vqgan_file: Path
) -> None:
    script.main(command)
    encoding = tiny_transformer(load_vqgan(vqgan_file), class_cond_dim=2)
    reading = tiny_transformer(
        vtokens=True, first_stage_vocab_size=32, class_cond_dim=2, resolution=4, sequence_length=4
    )
    reading.transformer.load_state_dict(encoding.transformer.state_dict())
    assert stored(tmp_path).class_names == ["run", "walk"] == on_the_fly(tmp_path).class_names
    for train in (True, False):
        clips, codes = on_the_fly(tmp_path).dataset(train), stored(tmp_path).dataset(train)
        assert len(clips) == len(codes) == 6  # 3 windows of 16 in 18 frames, twice
        collate = torch.utils.data.default_collate
        videos, tokens = (collate([data[i] for i in range(6)]) for data in (clips, codes))
        assert tokens["label"].tolist() == [0, 0, 0, 1, 1, 1] == videos["label"].tolist()
        expected = encoding.shared_step(videos, 0)
        assert all(map(torch.equal, reading.shared_step(tokens, 0), expected))
        seen = {tuple(codes.flatten().tolist()) for codes in tokens["video"]}
        assert len(seen) == 6  # windows that could not be told apart would prove nothing


def test_every_nth_window_of_a_split_is_stored(
    script: ModuleType,
    command: list[str],
    tmp_path: Path,
    vqgan_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script.main([*command, "--every", "4"])
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "codes.h5"), "n_train": 2, "n_test": 2, "n_codes": 32
    }  # fmt: skip
    clips, codes = on_the_fly(tmp_path).dataset(True), stored(tmp_path).dataset(True)
    for place, index in enumerate((0, 4)):
        expected = load_vqgan(vqgan_file).encode(clips[index]["video"][None])[0]
        assert torch.equal(codes[place]["video"], expected)


def test_a_run_that_was_stopped_goes_on_and_writes_the_same_file(
    script: ModuleType, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.main(command)
    expected = (tmp_path / "codes.h5").rename(tmp_path / "expected.h5")
    savez, written = np.savez, []

    def stopping(path: Path, **arrays: np.ndarray) -> None:
        savez(path, **arrays)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt  # before the second part is in its place

    monkeypatch.setattr(np, "savez", stopping)
    with pytest.raises(SystemExit, match="130"):
        script.main(command)
    assert not (tmp_path / "codes.h5").exists()
    script.main([*command, "--batch_size", "1"])  # which the codes do not depend on
    assert len(written) == 2 + 5  # of six parts the first was there
    assert not (tmp_path / "codes.h5.parts").exists()
    with h5py.File(tmp_path / "codes.h5") as file, h5py.File(expected) as whole:
        assert set(file) == set(whole) and len(file) == 6
        assert all(np.array_equal(file[name], whole[name]) for name in whole)


@pytest.mark.parametrize("stage", ["parts", "file", "foreign"])
def test_what_another_run_wrote_is_not_written_over(
    script: ModuleType,
    command: list[str],
    tmp_path: Path,
    stage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "codes.h5"
    if stage == "foreign":
        out.write_text("somebody's")
    else:
        script.main(command)
    if stage == "parts":
        script.claim(tmp_path / "codes.h5.parts", script.stored_identity(out))
        out.unlink()
    before = out.read_bytes() if out.exists() else b""
    with pytest.raises(SystemExit) as stop:
        script.main([*command, "--every", "2"])
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "--out got" in message and "holds something else" in message
    assert stage == "foreign" or "every" in message
    assert (out.read_bytes() if out.exists() else b"") == before


def test_run_again_a_finished_file_is_left_as_it_is(
    script: ModuleType, command: list[str], tmp_path: Path
) -> None:
    script.main(command)
    before = (tmp_path / "codes.h5").stat().st_mtime_ns
    script.main(command)
    assert (tmp_path / "codes.h5").stat().st_mtime_ns == before


@pytest.mark.parametrize(("flag", "value"), [("--every", "0"), ("--stft_data", None)])
def test_what_cannot_be_stored_is_refused_in_a_line(
    script: ModuleType,
    command: list[str],
    flag: str,
    value: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        script.main([*command, flag, *([value] if value else [])])
    assert stop.value.code == 2 and flag in capsys.readouterr().err
