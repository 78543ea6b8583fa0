"""Datasets of clips, and the module that chooses among them by a run's flags."""

from tats.data.clips import Batch, ClipDataset, ClipKey, ClipSampler, LabelledClips
from tats.data.datamodule import VideoData, check_channels
from tats.data.frame_folders import FrameDataset
from tats.data.hdf5 import HDF5Dataset, HDF5TextDataset, HDF5TokenDataset
from tats.data.stft import StftDataset
from tats.data.video_files import VideoDataset

__all__ = [
    "Batch",
    "ClipDataset",
    "ClipKey",
    "ClipSampler",
    "FrameDataset",
    "HDF5Dataset",
    "HDF5TextDataset",
    "HDF5TokenDataset",
    "LabelledClips",
    "StftDataset",
    "VideoData",
    "VideoDataset",
    "check_channels",
]
