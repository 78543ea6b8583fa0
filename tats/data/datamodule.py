"""The data of a run, as its flags describe it."""

from __future__ import annotations

import copy
import functools
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from tats.clip_spec import ClipSpec, uses_mugen
from tats.data.clips import ClipDataset, ClipSampler, LabelledClips
from tats.data.frame_folders import FrameDataset
from tats.data.hdf5 import HDF5Dataset, HDF5TextDataset, HDF5TokenDataset, stored_class_names
from tats.data.position import Epochs, continue_at, counted_place, stored_place
from tats.data.stft import StftDataset
from tats.data.video_files import VideoDataset, video_class_names
from tats.data.workers import leave_signals_alone, signals_held
from tats.errors import UserError
from tats.flags import check_data_args, check_seed, with_defaults
from tats.randomness import seed_step

log = logging.getLogger(__name__)

PLACE_KEYS = ("clips_drawn", "clips_per_epoch")


class ClipLoader(DataLoader[Any]):
    """Batches that go on where training was stopped.

    The place is kept by ``VideoData``, since a loader knows what was fetched, not what was used;
    the two methods tell Lightning that it is kept.
    """

    def __iter__(self) -> Any:
        with signals_held():
            return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: ``VideoData.state_dict`` has it all."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""


class VideoData(LightningDataModule):
    """Training clips from the training split, validation clips from the test split.

    Training goes on exactly where a checkpoint was written, in the middle of an epoch too, with
    any Trainer that is given this module and the checkpoint.

    Args:
        args: the data flags; missing ones take their defaults. Nothing is read before it is
            asked for.

    Raises:
        UserError: a flag is out of range, or flags exclude each other.
    """

    def __init__(self, args: Namespace) -> None:
        super().__init__()
        self.args = with_defaults(args)
        check_data_args(self.args)
        check_seed(self.args)
        self.clip = ClipSpec.from_flags(self.args)
        self._datasets: dict[bool, ClipDataset] = {}
        self._stored: tuple[int, int] | None = None  # clips drawn, clips of an epoch
        self._start = 0  # clips drawn before this run
        self._epochs: Epochs | None = None

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in the order of their labels.

        Raises:
            UserError: this kind of data has no labels.
        """
        root = existing_data_path(self.args)
        if root.is_file() and self.args.vtokens and (names := stored_class_names(root)):
            return names
        unlabelled = self.args.image_folder or self.args.stft_data or uses_mugen(self.args)
        if root.is_file() or unlabelled:
            raise UserError(
                f"--data_path {root} has no class labels; expected videos in class folders, or "
                "--unconditional"
            )
        return video_class_names(root)

    @property
    def n_classes(self) -> int:
        """Number of classes; raises as ``class_names`` does."""
        return len(self.class_names)

    def dataset(self, train: bool) -> ClipDataset:
        """Open a split; the second call returns the same dataset.

        Args:
            train: the training split rather than the test split.

        Raises:
            UserError: the data are missing, damaged, or have another layout than the flags say.
        """
        if train not in self._datasets:
            self._datasets[train] = open_dataset(self.args, train)
        return self._datasets[train]

    def prepare_data(self) -> None:
        """Index both splits and read a clip of each, in one process a machine.

        The others then find the index, and data that the flags do not fit are met before training.

        Raises:
            UserError: the data are missing, damaged, or have another layout than the flags say.
        """
        for train in (True, False):
            trial = copy.deepcopy(self.dataset(train))  # whose open files no process inherits
            trial[0]

    def train_dataloader(self) -> DataLoader[Any]:
        """Return batches of training clips in a new order every epoch.

        After a checkpoint was loaded they begin with the clips that come after it.
        """
        dataset = self.dataset(train=True)
        labels = _labels(dataset) if self.args.balanced_sampler else None
        sampler = ClipSampler(dataset, balanced_labels=labels, **self._order())
        trainer = self.trainer
        self._epochs = Epochs(
            n_clips=len(dataset),
            clips_per_batch=self.args.batch_size * sampler.num_replicas,
            limit=trainer.limit_train_batches if trainer else 1.0,
        )
        self._start = self._place_to_start(self._epochs)
        if trainer and trainer.fit_loop.is_resuming:
            continue_at(trainer, self._start, self._epochs)
        return self._dataloader(dataset, sampler.starting_at(self._start))

    def _place_to_start(self, epochs: Epochs) -> int:
        trainer, stored = self.trainer, self._stored
        if trainer and not trainer.fit_loop.is_resuming:  # an earlier run may have left a place
            return trainer.current_epoch * epochs.n_clips
        if stored is not None:
            return stored_place(*stored, epochs)
        return counted_place(trainer, epochs) if trainer else 0

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the training data: clips consumed by training steps so far."""
        if self._epochs is None:
            drawn = self._stored
        else:
            drawn = (self._place(self._epochs), self._epochs.n_clips)
        return {} if drawn is None else dict(zip(PLACE_KEYS, drawn, strict=True))

    def _place(self, epochs: Epochs) -> int:
        return counted_place(self.trainer, epochs, self._start) if self.trainer else self._start

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at a place that ``state_dict`` returned.

        Raises:
            UserError: it is none.
        """
        n_drawn, n_clips = (state_dict.get(key) for key in PLACE_KEYS)
        if type(n_drawn) is not int or type(n_clips) is not int or n_drawn < 0 or n_clips < 1:
            raise UserError(
                f"--resume_from_checkpoint: the file has {n_drawn!r} of {n_clips!r} for its place "
                "in the training data; expected a count of clips drawn and one of those in an "
                "epoch"
            )
        self._stored = n_drawn, n_clips

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Give a training step random draws that depend on the seed and its first clip alone."""
        if self.trainer and self.trainer.training and self._epochs is not None:
            seed_step(self.args.seed, self._place(self._epochs))
        return batch

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the batches of ``val_dataloader``: the test split is all that is held out."""
        return self.val_dataloader()

    def val_dataloader(self) -> DataLoader[Any]:
        """Return batches of test clips, the same ones every epoch.

        They are shuffled once, so that ``--limit_val_batches`` leaves a fair sample.
        """
        dataset = self.dataset(train=False)
        return self._dataloader(dataset, ClipSampler(dataset, fixed=True, **self._order()))

    def _order(self) -> dict[str, Any]:
        return {"seed": self.args.seed, "sharded": self.args.replace_sampler_ddp}

    def _dataloader(self, dataset: ClipDataset, sampler: ClipSampler) -> DataLoader[Any]:
        return ClipLoader(
            dataset,
            batch_size=self.args.batch_size,
            sampler=sampler,
            num_workers=self.args.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.args.num_workers > 0,
            worker_init_fn=leave_signals_alone,
        )


def existing_data_path(args: Namespace) -> Path:
    """Return ``--data_path``.

    Raises:
        UserError: it does not exist, or is an empty folder.
    """
    root = Path(args.data_path).expanduser()
    if not root.exists():
        raise UserError(
            f"--data_path got {root}, which does not exist; expected a dataset folder or an HDF5 "
            "file"
        )
    if root.is_dir() and not any(root.iterdir()):
        raise UserError(f"--data_path got {root}, which is empty; expected a dataset folder")
    return root


def check_channels(args: Namespace) -> None:
    """Check that a VQGAN of ``--image_channels`` fits the clips, as far as the flags tell.

    Raises:
        UserError: it does not.
    """
    if uses_mugen(args):
        from tats.data.mugen.clips import check_mugen_channels

        check_mugen_channels(args)


def open_dataset(args: Namespace, train: bool) -> ClipDataset:
    """Choose and open the reader the flags ask for; a new kind of data is one more case here.

    Args:
        args: complete data flags.
        train: the training split rather than the test split.

    Raises:
        UserError: the data do not suit the flags, or their kind is not supported.
    """
    root = existing_data_path(args)
    common: dict[str, Any] = {
        "train": train,
        "sequence_length": args.sequence_length,
        "resolution": args.resolution,
        "sample_every_n_frames": args.sample_every_n_frames,
        "seed": args.seed,
    }
    if root.is_file():
        _refuse(args, root, "image_folder", "stft_data", "smap_cond")
        if args.vtokens:
            return HDF5TokenDataset(path=root, spatial_length=args.spatial_length, **common)
        _check_colour(args)
        if args.text_cond:
            return HDF5TextDataset(path=root, tokenize=_caption_tokenizer(args), **common)
        return HDF5Dataset(path=root, **common)
    if uses_mugen(args):
        _refuse(args, root, "vtokens", "stft_data", "image_folder")
        from tats.data.mugen.clips import mugen_dataset  # only MUGEN needs its renderer

        if not (args.coinrun_assets or args.get_text_only):
            _say_that_sprites_are_drawn()
        return mugen_dataset(args, root, train=train)
    _refuse(args, root, "vtokens", "text_cond")
    if args.stft_data:
        _refuse(args, root, "image_folder")
        common.pop("sample_every_n_frames")  # the flags' checks allow only 1
        return StftDataset(root=root, show_progress=_is_rank_zero(), **common)
    _check_colour(args)
    if args.image_folder:
        return FrameDataset(root=root, **common)
    return VideoDataset(root=root, show_progress=_is_rank_zero(), **common)


@functools.cache  # once, not for every split
def _say_that_sprites_are_drawn() -> None:
    log.warning(
        "MUGEN's games are drawn with sprites of our own: the clips look different from MUGEN's, "
        "so neither its models nor its FVD can be compared; --coinrun_assets takes MUGEN's sprites"
    )


def _caption_tokenizer(args: Namespace) -> Callable[[str], Tensor]:
    return functools.partial(_tokenize, n_tokens=args.text_seq_len, truncate=args.truncate_captions)


def _tokenize(caption: str, n_tokens: int, truncate: bool) -> Tensor:
    from tats.text import tokenize

    try:
        return tokenize(caption, context_length=n_tokens, truncate=truncate)[0]
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--text_cond: {error}; or add --truncate_captions") from error


def _is_rank_zero() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0  # Lightning sets it once it knows


def _refuse(args: Namespace, root: Path, *flags: str) -> None:
    kind = "an HDF5 file" if root.is_file() else "a folder of videos"
    for flag in flags:
        if getattr(args, flag):
            raise UserError(
                f"--{flag} cannot be used with --data_path {root}, {kind}; leave the flag out"
            )


def _check_colour(args: Namespace) -> None:
    if args.image_channels != 3:
        raise UserError(
            f"--image_channels got {args.image_channels}; expected 3, the channels of video frames"
        )


def _labels(dataset: ClipDataset) -> np.ndarray:
    if not isinstance(dataset, LabelledClips):
        raise UserError("--balanced_sampler needs class labels, which these data do not have")
    return dataset.labels()
