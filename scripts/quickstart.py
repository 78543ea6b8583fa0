#!/usr/bin/env python
"""From nothing to new videos in minutes: every stage at a small size, then a page to look at.

    python scripts/quickstart.py            # or: make quickstart

Runs the commands a user would run, one after the other, each printed before it starts. When
interrupted, it continues where it stopped; a finished step is not repeated.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tats.errors import UserError, one_line_errors
from tats.paths import atomic_path

ROOT = Path(__file__).resolve().parent.parent
RESOLUTION, N_FRAMES = 32, 16
DATASET_NAME = "demo"
# As many of the sixteen as minutes of training can tell apart.
GAMES = "bigfish caveflyer climber coinrun fruitbot maze ninja starpilot"
N_SHORT, N_LONG, LONG_LATENT_FRAMES = 32, 4, 32
# Both limits hold: steps on a fast machine, minutes on a slow one.
VQGAN_STEPS, VQGAN_TIME = 2000, "00:00:05:00"
GPT_STEPS, GPT_TIME = 1500, "00:00:01:30"


@dataclass(frozen=True)
class Step:
    """One command of the tour.

    Args:
        name: names its record and its heading.
        script: path below the project's folder.
        arguments: what follows it.
        trains: it leaves a checkpoint, and can go on from one.
    """

    name: str
    script: str
    arguments: list[str]
    trains: bool = False

    @property
    def command(self) -> str:
        """The line a user would type."""
        return shlex.join(["python", self.script, *self.arguments])


def last_checkpoint(folder: Path) -> Path:
    """Newest final checkpoint of a training folder."""
    found = sorted(folder.glob("lightning_logs/version_*/checkpoints/last.ckpt"), key=_mtime)
    if not found:
        raise UserError(f"{folder} holds no finished training; delete it and run again")
    return found[-1]


def _mtime(path: Path) -> float:
    return path.stat().st_mtime


def data_step(out: Path) -> Step:
    """Make the clips: a class for each game, or for each film where games cannot be had."""
    flags = f"--out {out / 'data'} --size {RESOLUTION} --frames 48 --clips_per_class 40"
    flags += f" --test_clips_per_class 8 --games {GAMES}"
    return Step("data", "scripts/make_demo_data.py", shlex.split(flags))


def vqgan_step(out: Path) -> Step:
    """Train the VQGAN."""
    flags = f"""--data_path {out / "data"} --default_root_dir {out / "vqgan"}
        --resolution {RESOLUTION} --sequence_length {N_FRAMES} --downsample 4 4 4
        --n_hiddens 8 --embedding_dim 64 --n_codes 512 --norm_type batch --batch_size 4
        --lr 4e-3 --discriminator_iter_start 100000 --disc_channels 4 --disc_layers 1
        --num_workers 1 --max_steps {VQGAN_STEPS} --max_time {VQGAN_TIME}
        --val_check_interval 250 --check_val_every_n_epoch none --limit_val_batches 4
        --num_sanity_val_steps 0 --log_every_n_steps 10 --single_forward"""
    return Step("vqgan", "train_vqgan.py", shlex.split(flags), trains=True)


def transformer_step(out: Path) -> Step:
    """Train the class-conditional transformer on the VQGAN's codes."""
    flags = f"""--vqvae {last_checkpoint(out / "vqgan")} --data_path {out / "data"}
        --default_root_dir {out / "transformer"} --resolution {RESOLUTION}
        --sequence_length {N_FRAMES} --block_size 256 --n_layer 4 --n_head 4 --n_embd 128
        --batch_size 8 --base_lr 1.25e-4 --gradient_clip_val 1.0 --num_workers 1
        --max_steps {GPT_STEPS} --max_time {GPT_TIME} --val_check_interval 500
        --check_val_every_n_epoch none --limit_val_batches 8 --num_sanity_val_steps 0
        --log_every_n_steps 10"""
    return Step("transformer", "train_transformer.py", shlex.split(flags), trains=True)


def _models(out: Path) -> str:
    return (
        f"--gpt_ckpt {last_checkpoint(out / 'transformer')} "
        f"--vqgan_ckpt {last_checkpoint(out / 'vqgan')}"
    )


def save_step(out: Path) -> Step:
    """Put both models into one folder, for ``TATS.from_pretrained``."""
    gpt, vqgan = last_checkpoint(out / "transformer"), last_checkpoint(out / "vqgan")
    flags = f"--gpt {gpt} --vqgan {vqgan} --out {out / 'model'}"
    return Step("save", "scripts/save_pretrained.py", shlex.split(flags))


def measure_step(out: Path) -> Step:
    """Measure both models on held-out clips."""
    flags = f"""{_models(out)} --data_path {out / "data"} --resolution {RESOLUTION}
        --sequence_length {N_FRAMES} --batch_size 16 --n_clips 64 --grid
        {out / "page" / "reconstructions.mp4"}"""
    return Step("measure", "scripts/evaluate_heldout.py", shlex.split(flags))


def short_step(out: Path) -> Step:
    """Sample as many clips of every class, and score them against real ones."""
    flags = f"""{_models(out)} --class_cond --save {out / "short"} --data_path {out / "data"}
        --batch_size 16 --resolution {RESOLUTION} --sequence_length {N_FRAMES} --top_k 512
        --top_p 0.92 --dataset {DATASET_NAME} --n_sample {N_SHORT} --compute_fvd --save_videos"""
    return Step("short", "sample_vqgan_transformer_short_videos.py", shlex.split(flags))


def long_step(out: Path) -> Step:
    """Sample clips eight times as long as the training clips."""
    flags = f"""{_models(out)} --class_cond --save {out / "long"} --dataset {DATASET_NAME}
        --sample_length {LONG_LATENT_FRAMES} --temporal_sample_pos 3 --batch_size {N_LONG}
        --n_sample {N_LONG} --top_k 512 --top_p 0.92 --save_videos"""
    return Step("long", "sample_vqgan_transformer_long_videos.py", shlex.split(flags))


STEPS = (
    data_step,
    vqgan_step,
    transformer_step,
    save_step,
    measure_step,
    short_step,
    long_step,
)


# --- running ----------------------------------------------------------------------------------


def run_step(step: Step, out: Path) -> dict[str, Any]:
    """Run a step unless it is done; its record says how, how long, and what it printed."""
    record_path = out / "steps" / f"{step.name}.json"
    if record_path.is_file():
        record = json.loads(record_path.read_text())
        if record["command"] == step.command:
            print(f"\n[{step.name}] done before, in {record['seconds']:.0f} s", flush=True)
            return record
    arguments = step.arguments
    if step.trains:
        arguments = [*arguments, "--resume_from_checkpoint", "last"]
    print(f"\n[{step.name}] {step.command}", flush=True)
    started = time.monotonic()
    command = [sys.executable, str(ROOT / step.script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise UserError(f"step {step.name} failed with exit code {process.returncode}; see above")
    record = {
        "name": step.name,
        "command": step.command,
        "seconds": round(time.monotonic() - started, 1),
        "result": _result(lines),
    }
    with atomic_path(record_path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    return record


def _result(lines: Sequence[str]) -> dict[str, Any]:
    """The line of JSON a script ends with, if it does."""
    for line in reversed(lines):
        if line.startswith("{"):
            return json.loads(line)
    return {}


# --- the page ---------------------------------------------------------------------------------

CURVES = {
    "vqgan": ("train/recon_loss", "val/recon_loss", "train/perplexity"),
    "transformer": ("train/loss", "val/loss"),
}


def read_curve(folder: Path, figure: str) -> list[tuple[int, float]]:
    """Steps and values of a logged figure, over all runs of a training folder."""
    points: dict[int, float] = {}
    for run in sorted(folder.glob("lightning_logs/version_*"), key=_mtime):
        events = EventAccumulator(str(run), size_guidance={"scalars": 0})
        events.Reload()
        if figure in events.Tags()["scalars"]:
            points |= {event.step: event.value for event in events.Scalars(figure)}
    return sorted(points.items())


def draw_curves(out: Path) -> None:
    """Plot the training curves of both models into the page's folder."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
    panels = (
        ("vqgan", CURVES["vqgan"][:2], "VQGAN: 4 x mean absolute error"),
        ("vqgan", CURVES["vqgan"][2:], "VQGAN: codes in use (batch perplexity)"),
        ("transformer", CURVES["transformer"], "transformer: nats per code"),
    )
    for axis, (model, names, title) in zip(axes, panels, strict=True):
        for name in names:
            points = read_curve(out / model, name)
            if points:
                axis.plot(*zip(*points, strict=True), label=name, marker="." * ("val" in name))
        axis.set(title=title, xlabel="step")
        axis.legend()
        axis.grid(alpha=0.3)
    with atomic_path(out / "page" / "curves.png") as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def video_tag(path: Path, out: Path, width: int) -> str:
    """A looping video of the page."""
    source = html.escape(os.path.relpath(path, out))
    return f'<video src="{source}" width="{width}" autoplay loop muted controls></video>'


def write_page(out: Path, records: dict[str, dict[str, Any]]) -> Path:
    """Write ``index.html``: videos, curves, figures, settings, timings."""
    draw_curves(out)
    held_out, short = records["measure"]["result"], records["short"]["result"]
    source = records["data"]["result"]
    grids = {name: sorted((out / name).glob("*/videos/*.mp4")) for name in ("short", "long")}
    classes = ", ".join(source["classes"])
    rows = "\n".join(
        f"<tr><td>{name}</td><td>{record['seconds']:.0f} s</td>"
        f"<td><code>{html.escape(record['command'])}</code></td></tr>"
        for name, record in records.items()
    )
    n_frames = LONG_LATENT_FRAMES * 4
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>TATS quickstart</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em }}
video, img {{ image-rendering: pixelated; max-width: 100%; display: block }}
td {{ vertical-align: top; padding: .2em .8em .2em 0 }} code {{ font-size: 12px }}
</style>
<h1>TATS quickstart</h1>
<p>Two small models, trained on a CPU for minutes on {source["train_clips"]} clips of
{RESOLUTION}×{RESOLUTION} pixels ({html.escape(source["source"])}: {html.escape(classes)}).
They show that every part works; they do not show how good the method is.</p>
<h2>Held-out clips and their reconstructions</h2>
<p>Top: real. Bottom: through the VQGAN. PSNR {held_out["psnr"]:.1f} dB; codebook perplexity
{held_out["perplexity"]:.0f} of {held_out["n_codes"]} codes over {held_out["n_clips"]} clips.</p>
{video_tag(out / "page" / "reconstructions.mp4", out, 1056)}
<h2>Sampled clips, one class after the other</h2>
<p>In reading order, and over again: {html.escape(classes)}. The transformer's held-out loss is
{held_out["transformer_loss"]:.2f} nats per code; knowing only how often each code occurs would give
{held_out["unigram_entropy"]:.2f}. FVD {short["fvd"]:.0f} between {short["n_clips"]} sampled and as
many real clips: a smoke figure, not comparable with published ones.</p>
{video_tag(grids["short"][0], out, 528)}
<h2>Long videos: {n_frames} frames from models that saw {N_FRAMES}</h2>
<p>Classes {html.escape(", ".join(source["classes"][:N_LONG]))}; a sliding window of 3 latent
frames of context.</p>
{video_tag(grids["long"][0], out, 528)}
<h2>Training curves</h2>
<img src="page/curves.png" alt="training curves">
<h2>Commands and timings</h2>
<table>{rows}</table>
</html>
"""
    with atomic_path(out / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out / "index.html"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Run all steps and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("out/quickstart"), help="results")
    out: Path = parser.parse_args(argv).out
    started = time.monotonic()
    records = {}
    for plan in STEPS:
        step = plan(out)
        records[step.name] = run_step(step, out)
    page = write_page(out, records)
    held_out = records["measure"]["result"]
    print(
        f"\nheld-out clips: PSNR {held_out['psnr']:.1f} dB, codebook perplexity "
        f"{held_out['perplexity']:.0f} of {held_out['n_codes']}; transformer "
        f"{held_out['transformer_loss']:.2f} nats per code against a unigram entropy of "
        f"{held_out['unigram_entropy']:.2f}"
    )
    print(f"{time.monotonic() - started:.0f} s. Open {page}")


if __name__ == "__main__":
    main()
