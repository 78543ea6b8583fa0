"""Small videos with sound and their spectrograms, shared by tests."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from small_data import grey_frames

from tats.data.sound import FRAME_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME, spectrogram
from tats.data.stft import stft_clip
from tats.models.vqgan import VQGAN
from tats.video_io import Sound, write_video

N_FRAMES = 24
STFT_SHAPE = (45, 17)


def tone(frequency: float, n_frames: int = N_FRAMES) -> Sound:
    """A sine of half amplitude as long as so many video frames."""
    time = np.arange(n_frames * SAMPLES_PER_FRAME) / SAMPLE_RATE
    return Sound((0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32), SAMPLE_RATE)


def write_tone_video(path: Path, frequency: float | None, n_frames: int = N_FRAMES) -> None:
    """Write a video of grey frames, with a tone or without sound."""
    frames = grey_frames(min(n_frames, 12), side=16)
    frames = np.concatenate([frames] * -(-n_frames // 12))[:n_frames]
    sound = None if frequency is None else tone(frequency, n_frames)
    write_video(path, frames, FRAME_RATE, sound, crf=1)


def frame_stft(n_frames: int = N_FRAMES) -> np.ndarray:
    """Spectrograms float64 (n, 45, 17) in [0, 1]; frame t holds t / 100 everywhere."""
    values = np.arange(n_frames)[:, None, None] / 100
    return np.broadcast_to(values, (n_frames, *STFT_SHAPE)).copy()


def write_pickle(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def write_drums(root: Path, *, layout: str = "folders", n_clips: int = 2) -> Path:
    """Write a data set with sound in one of the two published layouts."""
    for split in ("train", "test"):
        for number in range(n_clips):
            stft, video = drum_paths(root, layout, split, f"clip{number}")
            write_tone_video(video, 440.0 * (number + 1))
            write_pickle(stft, frame_stft())
    return root


def drum_paths(root: Path, layout: str, split: str, name: str) -> tuple[Path, Path]:
    """Where a clip's spectrogram and video lie."""
    if layout == "folders":
        return root / "stft" / split / f"{name}.pickle", root / "video" / split / f"{name}.mp4"
    return root / split / "stft_pickle" / f"{name}.pickle", root / split / "mp4" / f"{name}.mp4"


@torch.no_grad()
def learn_codes(vqgan: VQGAN) -> None:
    """Take the codebook from tones and noise, so that sounds differ in their codes."""
    tones = [spectrogram(tone(f, 16).samples) for f in (300.0, 440.0, 880.0, 3000.0, 9000.0)]
    noise = [torch.rand(16, 45, 17).numpy() for _ in range(3)]
    clips = torch.stack([stft_clip(array, 0) for array in tones + noise])
    vqgan.train()
    for _ in range(30):  # until the batch statistics have settled
        vqgan.encoder(clips)
    vqgan.eval()
    found = vqgan.pre_vq_conv(vqgan.encoder(clips)).movedim(1, -1).flatten(0, -2)  # (n, D)
    vqgan.codebook.embeddings.copy_(found[:: len(found) // vqgan.n_codes][: vqgan.n_codes])
