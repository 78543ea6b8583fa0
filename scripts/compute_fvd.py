#!/usr/bin/env python
"""Compute FVD and KVD between two sets of clips.

    python scripts/compute_fvd.py --fake samples.npy --real real.npy
    python scripts/compute_fvd.py --fake folder/of/videos --real other/folder
    python scripts/compute_fvd.py --fake samples.npy --data_path DATA --resolution 128 --repeats 4

A set is a ``.npy`` of uint8 (n, T, H, W, 3), a folder of videos of which the first
``--sequence_length`` frames are taken as they are, or, with ``--data_path``, random clips of a
dataset's training split. Published figures compare 2048 clips with 2048; fewer give a larger
FVD. Prints one line of JSON that says which weights were used.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tats.clip_spec import ClipSpec
from tats.data import ClipDataset, VideoData
from tats.data.decoding import DecodeError, frame_times, read_frames
from tats.devices import choose_device
from tats.errors import UserError, one_line_errors
from tats.evaluation import I3DFeatures, frechet_distance, load_i3d, polynomial_mmd
from tats.evaluation.i3d import MIN_FRAMES, i3d_source
from tats.flags import add_data_flags, check_data_args, new_parser
from tats.video_io import to_uint8

VIDEO_SUFFIXES = (".avi", ".mp4", ".webm", ".mov")


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Compute FVD and KVD between two sets of clips.")
    parser.add_argument("--fake", type=Path, required=True, help=".npy or folder of videos")
    parser.add_argument("--real", type=Path, help="the same; else random clips of --data_path")
    parser.add_argument("--n_clips", type=int, help="clips of each set; None = as many as can be")
    parser.add_argument("--repeats", type=int, default=1, help="runs on other clips, for the ±")
    parser.add_argument("--i3d_path", type=Path, help="weights of I3D; None = the fetched ones")
    parser.add_argument("--device", default="auto", help="auto = the GPU where there is one")
    parser.add_argument("--seed", type=int, default=0, help="chooses the clips of every run")
    add_data_flags(parser)
    return parser


class Clips(Protocol):
    """A set of clips, read one at a time."""

    n_frames: int
    n_workers: int
    size: tuple[int, int] | None  # height and width; None where videos may differ

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Return a clip, uint8 (T, H, W, 3)."""


class NpyClips:
    """Clips of one .npy file, read where they lie."""

    n_workers = 0

    def __init__(self, path: Path, flag: str) -> None:
        try:
            self.array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{flag}: got {path}, which is no .npy file ({reason})") from None
        if self.array.dtype != np.uint8 or self.array.ndim != 5 or self.array.shape[-1] != 3:
            raise UserError(
                f"{flag}: got {self.array.dtype} {self.array.shape} in {path}; expected uint8 "
                "(n, T, H, W, 3)"
            )
        _, self.n_frames, height, width, _ = self.array.shape
        self.size: tuple[int, int] | None = (height, width)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self.array[index]))


class FolderClips:
    """The first frames of every video in a folder and the folders below it."""

    def __init__(self, folder: Path, flag: str, n_frames: int, n_workers: int) -> None:
        found = sorted(folder.rglob("*"))
        self.files = [file for file in found if file.suffix.lower() in VIDEO_SUFFIXES]
        self.flag, self.n_frames, self.n_workers = flag, n_frames, n_workers
        self.size: tuple[int, int] | None = None
        if not self.files:
            raise UserError(f"{flag}: got {folder} without videos; expected {VIDEO_SUFFIXES}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        file = self.files[index]
        try:
            times = frame_times(file)
            if len(times) < self.n_frames:
                raise UserError(
                    f"{self.flag}: got {len(times)} frames in {file}; expected at least "
                    f"{self.n_frames} (--sequence_length)"
                )
            return torch.from_numpy(read_frames(file, times, 0, self.n_frames))
        except DecodeError as error:
            raise UserError(f"{self.flag}: {error}; repair or remove the file") from None


class DatasetClips:
    """Clips of a dataset's training split."""

    def __init__(self, args: argparse.Namespace) -> None:
        check_data_args(args)
        if args.vtokens:
            raise UserError("--data_path: got --vtokens; expected data with frames, not codes")
        self.dataset: ClipDataset = VideoData(args).dataset(train=True)
        spec = ClipSpec.from_flags(args)
        self.n_frames, self.n_workers = spec.frames, args.num_workers
        self.size: tuple[int, int] | None = (spec.height, spec.width)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor:
        return to_uint8(self.dataset[index]["video"])


def open_clips(path: Path, flag: str, args: argparse.Namespace) -> Clips:
    """Open the set a flag names.

    Raises:
        UserError: there is nothing of the kind.
    """
    if path.is_dir():
        return FolderClips(path, flag, args.sequence_length, args.num_workers)
    if path.suffix != ".npy":
        raise UserError(f"{flag}: got {path}; expected a .npy file or a folder of videos")
    return NpyClips(path, flag)


def draw(n_total: int, n_clips: int, repeats: int, seed: int) -> list[np.ndarray]:
    """Choose the clips of each run: all different if there are enough, else at random anew."""
    random = np.random.default_rng(seed)
    if repeats * n_clips <= n_total:
        return np.split(random.permutation(n_total)[: repeats * n_clips], repeats)
    return [random.permutation(n_total)[:n_clips] for _ in range(repeats)]


def batches(clips: Clips, indices: np.ndarray, batch_size: int) -> Iterator[Tensor]:
    """Read the chosen clips; those of one size go together."""
    order = [int(index) for index in indices]
    loader: DataLoader[Any] = DataLoader(
        clips,  # type: ignore[arg-type]  # what it needs of a Dataset is there
        batch_size=batch_size,
        sampler=order,
        num_workers=clips.n_workers,
        collate_fn=list,
    )
    for read in loader:
        if len({clip.shape for clip in read}) == 1:
            yield torch.stack(read)
        else:
            yield from (clip[None] for clip in read)


def run_features(
    i3d: I3DFeatures, clips: Clips, runs: list[np.ndarray], batch_size: int, label: str
) -> list[Tensor]:
    """Compute the features of every run's clips, each clip once."""
    used = np.unique(np.concatenate(runs))
    stream = batches(clips, used, batch_size)
    features = i3d.collect(stream, n_clips=len(used), description=label)
    return [features[np.searchsorted(used, run)] for run in runs]


def summary(values: list[float], name: str) -> dict[str, Any]:
    """Name a figure's mean and, over several runs, its spread and the runs."""
    if len(values) == 1:
        return {name: values[0]}
    mean, std = statistics.mean(values), statistics.stdev(values)
    return {name: mean, f"{name}_std": std, f"{name}_runs": values}


def check_sets(args: argparse.Namespace, fake: Clips, real: Clips) -> int:
    """Check that the sets can be compared, and return how many clips of each to take.

    Raises:
        UserError: they cannot.
    """
    if fake.n_frames != real.n_frames or fake.n_frames < MIN_FRAMES:
        raise UserError(
            f"--fake: got clips of {fake.n_frames} frames and real ones of {real.n_frames}; "
            f"expected the same number, at least {MIN_FRAMES} (--sequence_length)"
        )
    if fake.size and isinstance(real, DatasetClips) and fake.size != real.size:
        (height, width), side = fake.size, args.resolution
        raise UserError(
            f"--resolution: gives real clips of {side}×{side} pixels, --fake has {height}×{width}; "
            f"expected the same size: give --resolution {height}"
        )
    most = min(len(fake), len(real))
    n_clips = most if args.n_clips is None else args.n_clips
    if not 2 <= n_clips <= most:
        raise UserError(
            f"--n_clips: got {n_clips}; expected 2 to {most}: there are {len(fake)} fake and "
            f"{len(real)} real clips"
        )
    if args.repeats < 1 or (args.repeats > 1 and n_clips == max(len(fake), len(real))):
        raise UserError(
            f"--repeats: got {args.repeats} with --n_clips {n_clips} of {len(fake)} fake and "
            f"{len(real)} real clips; expected clips to choose from: lower --n_clips"
        )
    return n_clips


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Compare the two sets and print one line of JSON."""
    args = build_parser().parse_args(argv)
    if (args.real is None) == (args.data_path is None):
        raise UserError("--real: got both or neither of --real and --data_path; expected one")
    device = choose_device(args.device)
    source = i3d_source(args.i3d_path)
    fake = open_clips(args.fake, "--fake", args)
    real = open_clips(args.real, "--real", args) if args.real else DatasetClips(args)
    n_clips = check_sets(args, fake, real)
    i3d = I3DFeatures(load_i3d(args.i3d_path).to(device))
    features = [
        run_features(i3d, clips, draw(len(clips), n_clips, args.repeats, seed), args.batch_size, s)
        for clips, seed, s in ((fake, args.seed, "fake clips"), (real, args.seed + 1, "real clips"))
    ]
    pairs = list(zip(*features, strict=True))
    result = {
        **summary([frechet_distance(y, x) for x, y in pairs], "fvd"),
        **summary([polynomial_mmd(y, x) for x, y in pairs], "kvd"),
        "n_clips": n_clips,
        "n_frames": fake.n_frames,
        "repeats": args.repeats,
        "weights": dataclasses.asdict(source),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
