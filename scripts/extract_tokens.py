#!/usr/bin/env python
"""Turn a data set into codes once, so that no training of a transformer has to do it again.

    python scripts/extract_tokens.py --vqgan_ckpt V.ckpt --data_path DATA --resolution 128 \
        --sequence_length 16 --every 4 --out codes.h5

Writes one HDF5 file that ``train_transformer.py --vtokens`` reads. Of each split it holds items
0, N, 2N … (N is --every) as the reader of such data gives them in its first epoch: of videos in
class folders every Nth window there is, of other layouts one window of every Nth video. Each is
stored as a video of its own, so that training sees these windows and no others. Labels are
stored where there are any. Run again, the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from tats.data import VideoData
from tats.data.workers import leave_signals_alone
from tats.devices import choose_device
from tats.errors import UserError, one_line_errors
from tats.flags import SEED, add_data_flags, new_parser
from tats.models.vqgan import VQGAN, load_vqgan
from tats.paths import atomic_path, file_sha256
from tats.weights.catalogue import resolve_checkpoint

SPLITS = ("train", "test")
CLIPS_PER_PART = 512  # a killed run loses at most the work of one part
NOT_THE_DATA = ("out", "device", "batch_size", "num_workers", "vqgan_ckpt")


def build_parser() -> argparse.ArgumentParser:
    """Declare this script's flags."""
    parser = new_parser("Store a data set as codes of a VQGAN.")
    add_data_flags(parser)
    parser.add_argument("--vqgan_ckpt", required=True, help="trained VQGAN")
    parser.add_argument("--out", type=Path, required=True, help="HDF5 file to write")
    parser.add_argument("--every", type=int, default=1, help="store every Nth clip of a split")
    parser.add_argument("--seed", type=int, default=SEED.default, help="of windows drawn at random")
    parser.add_argument("--device", default="auto", help="auto = the GPU where there is one")
    return parser


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Encode part by part, join the parts, print one line of JSON."""
    args = build_parser().parse_args(argv)
    check_args(args)
    vqgan = load_vqgan(args.vqgan_ckpt, flag="--vqgan_ckpt").to(choose_device(args.device))
    identity = what_is_stored(args)
    parts = args.out.with_name(f"{args.out.name}.parts")
    if args.out.exists():
        check_same(stored_identity(args.out), identity, args.out)
        remove(parts)
    else:
        claim(parts, identity)
        data = VideoData(args)
        for split in SPLITS:
            encode_split(args, data, vqgan, split, parts)
        join(parts, args.out, identity, class_names(data))
        remove(parts)
    print(json.dumps({"out": str(args.out), **counts(args.out), "n_codes": vqgan.n_codes}))


def check_args(args: argparse.Namespace) -> None:
    """Refuse what cannot be stored.

    Raises:
        UserError: a flag is out of range.
    """
    if args.every < 1:
        raise UserError(f"--every got {args.every}; expected 1 or more")
    for flag in ("vtokens", "text_cond", "stft_data"):
        if getattr(args, flag):
            raise UserError(
                f"--{flag} cannot be used here: codes of pictures and labels are stored; leave the "
                "flag out"
            )


def what_is_stored(args: argparse.Namespace) -> str:
    """All that the codes depend on, as JSON."""
    given = {key: str(value) for key, value in vars(args).items() if key not in NOT_THE_DATA}
    if args.data_path:
        given["data_path"] = str(Path(args.data_path).expanduser().resolve())
    vqgan = resolve_checkpoint(args.vqgan_ckpt, flag="--vqgan_ckpt", stage="vqgan")
    return json.dumps({**given, "vqgan": file_sha256(vqgan)}, sort_keys=True)


def check_same(found: str | None, identity: str, path: Path) -> None:
    """Refuse to go on with, or write over, something else.

    Raises:
        UserError: what was found is not what is asked for.
    """
    if found == identity:
        return
    try:
        theirs, ours = json.loads(found or ""), json.loads(identity)
        differing = ", ".join(key for key in ours if theirs.get(key) != ours[key])
    except (ValueError, AttributeError):
        differing = "nothing that this script wrote"
    raise UserError(
        f"--out got {path}, which holds something else ({differing}); expected a new file; remove "
        "it or choose another name"
    )


def stored_identity(path: Path) -> str | None:
    """What a file says its codes depend on."""
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("made_from")
    except OSError:
        return None


def claim(parts: Path, identity: str) -> None:
    """Begin a folder of parts, or go on with the one that is there."""
    mark = parts / "made_from.json"
    if parts.exists():
        check_same(mark.read_text() if mark.exists() else None, identity, parts)
        return
    with atomic_path(mark) as temporary:
        temporary.write_text(identity)


@torch.no_grad()
def encode_split(
    args: argparse.Namespace, data: VideoData, vqgan: VQGAN, split: str, parts: Path
) -> None:
    """Write a split's missing parts."""
    dataset = data.dataset(train=split == "train")
    wanted = range(0, len(dataset), args.every)
    starts = range(0, len(wanted), CLIPS_PER_PART)
    for number in tqdm(starts, desc=f"encoding {split}", unit="part"):
        path = parts / f"{split}-{number:09d}.npz"
        if path.exists():
            continue
        loader = DataLoader(
            Subset(dataset, wanted[number : number + CLIPS_PER_PART]),
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            worker_init_fn=leave_signals_alone,
        )
        found: dict[str, list[np.ndarray]] = {"data": [], "label": []}
        for batch in loader:
            codes = vqgan.encode(batch["video"].to(vqgan.codebook.embeddings.device))
            found["data"].append(codes.cpu().numpy().astype(np.int32))
            if "label" in batch:
                found["label"].append(batch["label"].numpy())
        arrays: dict[str, Any] = {k: np.concatenate(v) for k, v in found.items() if v}
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)


def join(parts: Path, out: Path, identity: str, names: list[str]) -> None:
    """Write the parts of both splits as one file."""
    with atomic_path(out) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["made_from"] = identity
        file.attrs["class_names"] = names
        for split in SPLITS:
            n_frames = 0
            for part in read_parts(parts, split):
                codes = part.pop("data")
                n_frames = codes.shape[1]
                extend(file, f"{split}_data", codes.reshape(-1, *codes.shape[2:]))
                for key, values in part.items():
                    extend(file, f"{split}_{key}", values)
            file[f"{split}_idx"] = np.arange(0, len(file[f"{split}_data"]) + 1, n_frames)


def read_parts(parts: Path, split: str) -> Iterator[dict[str, Any]]:
    """Read a split's parts in order."""
    for path in sorted(parts.glob(f"{split}-*.npz")):
        with np.load(path, allow_pickle=False) as part:
            yield dict(part)


def extend(file: Any, name: str, values: np.ndarray) -> None:
    """Append rows to an array of the file, which is made if it is not there."""
    if name not in file:
        shape = (None, *values.shape[1:])
        file.create_dataset(name, data=values, maxshape=shape, chunks=True)
        return
    array = file[name]
    array.resize(len(array) + len(values), axis=0)
    array[-len(values) :] = values


def class_names(data: VideoData) -> list[str]:
    """Names of the classes; none where these data have no labels."""
    try:
        return data.class_names
    except UserError:
        return []


def counts(path: Path) -> dict[str, int]:
    """Clips of each split."""
    with h5py.File(path, "r") as file:
        return {f"n_{split}": len(file[f"{split}_idx"]) - 1 for split in SPLITS}


def remove(parts: Path) -> None:
    """Remove the folder of parts, if it is there."""
    if parts.exists():
        shutil.rmtree(parts)


if __name__ == "__main__":
    main()
