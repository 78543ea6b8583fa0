"""Tiny models on disk, and ways to run the samplers' scripts on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from load_script import load_script
from tiny import save_checkpoint, tiny_transformer, tiny_vqgan

SHORT = "sample_vqgan_transformer_short_videos.py"
LONG = "sample_vqgan_transformer_long_videos.py"
HIERARCHICAL = "sample_vqgan_transformer_hierarchical.py"
N_CLASSES = 3


def save_models(folder: Path) -> dict[str, Path]:
    """Checkpoints: a VQGAN (4x4x4 latents of 16x16x16 clips) and transformers on it."""
    torch.manual_seed(0)
    vqgan = tiny_vqgan()
    kinds: dict[str, dict[str, Any]] = {
        "label": {"class_cond_dim": N_CLASSES},
        "uncond": {"unconditional": True},
        "interpolation": {"unconditional": True, "n_unmasked": 16},
        "fill": {"unconditional": True, "n_unmasked": 16, "block_size": 80, "sequence_length": 20},
        "fill-label": {
            "class_cond_dim": N_CLASSES,
            "n_unmasked": 16,
            "block_size": 80,
            "sequence_length": 20,
        },
        "short-block": {"class_cond_dim": N_CLASSES, "block_size": 63},
        "text": {"cond_stage_key": "text", "text_cond": True, "block_size": 320},
    }
    kinds["crops"] = {
        "unconditional": True, "vtokens": True, "vtokens_pos": True, "resolution": 6,
        "spatial_length": 4, "sequence_length": 4, "first_stage_vocab_size": 32,
    }  # fmt: skip
    paths = {"vqgan": save_checkpoint(vqgan, folder / "vqgan.ckpt")}
    for kind, flags in kinds.items():
        model = tiny_transformer(vqgan, **flags)
        paths[kind] = save_checkpoint(model, folder / f"{kind}.ckpt")
    (folder / "note.txt").write_text("not a checkpoint")
    (folder / "cut.ckpt").write_bytes(paths["label"].read_bytes()[:5000])
    return {**paths, "note": folder / "note.txt", "cut": folder / "cut.ckpt"}


def command(models: dict[str, Path], save: Path, kind: str = "label") -> list[str]:
    flags = {"gpt_ckpt": models[kind], "vqgan_ckpt": models["vqgan"], "save": save}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def run(script: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Run a script in this process; its one line of JSON."""
    load_script(script).main(arguments)
    return json.loads(capsys.readouterr().out)


def refused(script: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a script that must refuse its arguments; its one line."""
    with pytest.raises(SystemExit) as exit_:
        load_script(script).main(arguments)
    printed = capsys.readouterr()
    assert exit_.value.code != 0 and printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if "error:" in line]
    assert "Traceback" not in printed.err
    return line


def hierarchical(
    models: dict[str, Path], save: Path, key: str = "uncond", fill: str = "fill"
) -> list[str]:
    """Flags that name the hierarchical sampler's models."""
    flags = {"ckpt1": models[key], "CKPT2": models[fill], "vqgan": models["vqgan"], "save": save}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]
