"""What a clip is: decided once from the flags of a training run, and stored with its model.

Files without a stored ``ClipSpec``, released ones and our older ones, have only their flags:
``ClipSpec.from_flags`` reads these as training would, and ``ClipSpec.of_transformer`` compares the
result with what the transformer can read and with its VQGAN.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any, Literal, get_args

ClipKind = Literal["video", "spectrogram", "codes"]
ShapeTHW = tuple[int, int, int]

STFT_SIZE = (64, 16)  # frequencies and columns of one frame's spectrogram, as models see it
_SIZES = ("frames", "height", "width", "channels")


@dataclass(frozen=True)
class ClipSpec:
    """The clips a model trains on.

    Args:
        frames: frames of a clip, latent frames where it holds codes; -1 = a whole video.
        height, width: in pixels, frequencies and columns, or latent cells.
        channels: values of a pixel; 1 where the clip holds codes.
        kind: what a clip shows. A spectrogram is sound: its height is frequency.
    """

    frames: int
    height: int
    width: int
    channels: int
    kind: ClipKind

    @classmethod
    def from_flags(cls, args: Namespace) -> ClipSpec:
        """Read the flags of a training run.

        ``--stft_data`` alone does not make spectrograms: the VQGAN of the pictures is trained with
        it too, and has three channels.

        Args:
            args: complete data flags.
        """
        if args.vtokens:
            side = min(args.spatial_length, args.resolution)
            return cls(_kept_frames(args), side, side, channels=1, kind="codes")
        if args.stft_data and args.image_channels == 1:
            return cls(_kept_frames(args), *STFT_SIZE, channels=1, kind="spectrogram")
        side = args.resolution
        return cls(_kept_frames(args), side, side, channels=args.image_channels, kind="video")

    @classmethod
    def from_dict(cls, stored: object) -> ClipSpec:
        """Read what ``to_dict`` made, from a file that may hold anything.

        Raises:
            ValueError: it does not describe a clip.
        """
        if not isinstance(stored, Mapping) or set(stored) != {*_SIZES, "kind"}:
            raise ValueError(f"clip got {_short(stored)}; expected {', '.join(_SIZES)} and kind")
        for name in _SIZES:
            size = stored[name]
            least = -1 if name == "frames" else 1
            if type(size) is not int or not least <= size < 2**31:
                raise ValueError(
                    f"clip got {_short(size)} for {name}; expected a whole number from {least}"
                )
        if stored["kind"] not in get_args(ClipKind):
            raise ValueError(
                f"clip got {_short(stored['kind'])} for kind; expected one of "
                f"{', '.join(get_args(ClipKind))}"
            )
        return cls(**stored)

    @classmethod
    def given(cls, clip: ClipSpec | Mapping[str, Any] | None, args: Namespace) -> ClipSpec:
        """Take a clip as it is or as it is stored; where there is none, read the flags.

        Raises:
            ValueError: what is stored does not describe a clip.
        """
        if clip is None:
            return cls.from_flags(args)
        return clip if isinstance(clip, ClipSpec) else cls.from_dict(clip)

    @classmethod
    def of_transformer(
        cls, args: Namespace, *, vqgan: ClipSpec, holds: Callable[[ClipSpec], int]
    ) -> ClipSpec:
        """Read the flags of a transformer whose file does not say what its clips are.

        The published code trains sound models at 96 pixels whatever ``--resolution`` says,
        and samples at its VQGAN's size. So where the two sizes differ, and both fill a part of the
        block the transformer can read, the VQGAN's counts for sounds, else the one that fills
        more. The VQGAN's number of frames counts where the flags give one that cannot be.

        Args:
            args: the transformer's data flags, complete.
            vqgan: clip of the VQGAN it was trained on.
            holds: counts the video tokens of a clip; 0 where they do not fit the block.
        """
        own = cls.from_flags(args)
        if own.kind == "codes":
            return own
        sized = replace(own, height=vqgan.height, width=vqgan.width)
        if holds(sized) > (0 if args.stft_data else holds(own)):
            return sized
        return own if holds(own) or not holds(vqgan) else vqgan

    def to_dict(self) -> dict[str, Any]:
        """Give plain values, as they are stored in a checkpoint."""
        return asdict(self)

    @property
    def shape(self) -> ShapeTHW:
        """(frames, height, width)."""
        return self.frames, self.height, self.width

    def latent_shape(self, downsample: Sequence[int]) -> ShapeTHW:
        """Grid (t, h, w) of a clip's codes; a clip of codes is its own.

        Args:
            downsample: pixels per latent cell along time, height and width.
        """
        if self.kind == "codes":
            return self.shape
        t, h, w = (size // rate for size, rate in zip(self.shape, downsample, strict=True))
        return t, h, w


def uses_mugen(args: Namespace) -> bool:
    """Say whether ``--data_path`` names MUGEN's games: a folder with "coinrun" in its path."""
    if args.data_path is None or args.vtokens:
        return False
    path = PurePath(args.data_path.lower())
    return "coinrun" in str(path) and path.suffix not in (".h5", ".hdf5")


def _kept_frames(args: Namespace) -> int:
    """Count a clip's frames once every n-th one has been kept.

    Frame folders and MUGEN count the frames that are kept in ``--sequence_length``; video files
    and HDF5 files count those that are passed over too (D23).
    """
    if args.image_folder or uses_mugen(args):
        return args.sequence_length
    return -(-args.sequence_length // args.sample_every_n_frames)


def _short(value: object) -> str:
    return repr(value)[:40] if isinstance(value, (int, float, str)) else type(value).__name__
