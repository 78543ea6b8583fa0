"""From numbered samples to clips: condition, canvas, codes, pixels."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from tats.errors import UserError
from tats.flags import check_sliding_args
from tats.models.transformer import Net2NetTransformer
from tats.sampling.decode import decode
from tats.sampling.filters import TokenFilter
from tats.sampling.outputs import clip_writer, write_record
from tats.sampling.windows import Window, check_schedule, sliding, spatial, whole
from tats.video_io import to_uint8

if TYPE_CHECKING:
    from tats.sampling.fvd import FvdMeter

log = logging.getLogger(__name__)

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class VideoSampler:
    """Makes the clip of a sample's number, the same one in any batch and on any machine's turn.

    Args:
        model: transformer with its first stage, on the device to sample on.
        latent_shape: (frames, rows, columns) of the canvas.
        schedule: windows that fill it.
        token_filter: top-k, top-p and temperature.
        seed: sample i uses seed + i.

    Raises:
        UserError: the schedule does not fit the model, or the model cannot be sampled this way.
    """

    model: Net2NetTransformer
    latent_shape: tuple[int, int, int]
    schedule: list[Window] = field(repr=False)
    token_filter: TokenFilter
    seed: int = 0

    def __post_init__(self) -> None:
        n_frames, rows, columns = self.latent_shape
        try:
            check_schedule(
                self.schedule,
                n_tokens=n_frames * rows * columns,
                n_condition_tokens=self.model.conditioner.n_tokens,
                block_size=self.model.transformer.block_size,
            )
        except ValueError as error:
            raise UserError(f"--gpt_ckpt: its model cannot write this video: {error}") from error

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """Frames, height and width of the clips."""
        assert self.model.first_stage_model is not None
        t, h, w = (
            cells * rate
            for cells, rate in zip(
                self.latent_shape, self.model.first_stage_model.downsample, strict=True
            )
        )
        return t, h, w

    @property
    def valid_tokens(self) -> tuple[int, int]:
        """Range of the tokens that are codes of the first stage."""
        return self.model.cond_vocab_size, self.model.transformer.vocab_size

    def condition(self, indices: Sequence[int]) -> Tensor:
        """Give each sample its condition: class number i modulo the classes, or none.

        Args:
            indices: numbers of the samples.

        Returns:
            Condition tokens (B, L).
        """
        labels = torch.tensor(indices) % max(self.model.cond_vocab_size, 1)
        return self.model.encode_to_c(labels)[1]

    def codes(self, indices: Sequence[int]) -> Tensor:
        """Sample the codes of some samples.

        Args:
            indices: numbers of the samples.

        Returns:
            Codes, int64 (B, frames, rows, columns).
        """
        canvas = torch.full((len(indices), torch.Size(self.latent_shape).numel()), -1)
        tokens = decode(
            self.model.transformer,
            canvas.to(self.model.device),
            self.condition(indices).to(self.model.device),
            self.schedule,
            token_filter=self.token_filter,
            seeds=[self.seed + index for index in indices],
            valid_tokens=self.valid_tokens,
        )
        return (tokens - self.model.cond_vocab_size).unflatten(1, self.latent_shape)

    @torch.no_grad()
    def clips(self, indices: Sequence[int]) -> Tensor:
        """Sample some clips.

        Args:
            indices: numbers of the samples.

        Returns:
            uint8 (B, T, H, W, 3), on the CPU.
        """
        assert self.model.first_stage_model is not None
        # One by one: a long clip's decoding needs far more memory than its tokens' sampling.
        videos = [self.model.first_stage_model.decode(codes[None]) for codes in self.codes(indices)]
        return torch.cat([to_uint8(video).cpu() for video in videos])  # (B, T, H, W, 3)


def batches(
    sampler: VideoSampler, indices: Sequence[int], batch_size: int
) -> Iterator[tuple[Sequence[int], Tensor]]:
    """Sample many clips, batch by batch, with a progress bar.

    Args:
        sampler: makes the clips.
        indices: numbers of the samples.
        batch_size: clips sampled together, >= 1.

    Yields:
        Numbers and clips, uint8 (B, T, H, W, 3), of each batch.
    """
    with tqdm(total=len(indices), unit="clip", desc="sampling") as progress:
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            yield part, sampler.clips(part)
            progress.update(len(part))


def sample_indices(args: Namespace) -> range:
    """Numbers of a run's samples: run r follows on from run r - 1."""
    return range(args.run * args.n_sample, (args.run + 1) * args.n_sample)


def write_samples(
    sampler: VideoSampler,
    args: Namespace,
    folder: Path,
    *,
    argv: Sequence[str],
    save_frames: bool = False,
    meter: FvdMeter | None = None,
) -> dict[str, Any]:
    """Sample a run's clips and write them as they are made.

    Args:
        sampler: makes the clips.
        args: the sampler's flags: n_sample, run, batch_size, save_videos, the checkpoints.
        folder: where the results go.
        argv: the command line, for the record.
        save_frames: with ``--save_videos``, write every frame as a picture too.
        meter: scores the clips.

    Returns:
        What to tell the user: where the clips are, how many, and their scores.
    """
    indices = sample_indices(args)
    with clip_writer(
        folder,
        n_clips=len(indices),
        save_grids=args.save_videos,
        save_frames=args.save_videos and save_frames,
    ) as writer:
        for part, clips in batches(sampler, indices, args.batch_size):
            writer.add(part, clips)
            if meter is not None:
                meter.add(clips)
    result = {"clips": str(writer.path), "n_clips": len(indices)}
    result |= {} if meter is None else meter.scores()
    facts = {
        "result": result,
        "samples": [indices.start, indices.stop],
        "seeds": [sampler.seed + indices.start, sampler.seed + indices.stop],
        "clip_shape": list(sampler.clip_shape),
        "latent_shape": list(sampler.latent_shape),
        "device": str(sampler.model.device),
        # Tokens of the vocabulary that are no codes, so that they are never drawn (D5).
        "masked_condition_tokens": sampler.model.cond_vocab_size,
    }
    checkpoints = [args.gpt_ckpt, args.vqgan_ckpt]
    write_record(folder, argv=argv, args=args, checkpoints=checkpoints, facts=facts)
    return result


def place_model(model: Net2NetTransformer, device: str, precision: str) -> Net2NetTransformer:
    """Move a model to the device it will sample on.

    Args:
        model: as loaded.
        device: ``--device``; "auto" is the GPU where there is one.
        precision: ``--precision``, a key of ``PRECISIONS``.

    Returns:
        The same model.

    Raises:
        UserError: there is no such device, or it has no such precision.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and precision == "16":
        raise UserError("--precision got 16 on a CPU; expected 32 or bf16, or a GPU")
    try:
        return model.to(device=torch.device(device), dtype=PRECISIONS[precision])
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device got {device}, which cannot be used ({reason})") from error


def short_sampler(args: Namespace, model: Net2NetTransformer) -> VideoSampler:
    """Plan clips as long as the training clips.

    Args:
        args: the short sampler's flags.
        model: on its device.

    Returns:
        The sampler.

    Raises:
        UserError: the flags do not fit the model.
    """
    _check_condition(args, model)
    n_frames, rows, columns = model.latent_shape
    return VideoSampler(
        model=model,
        latent_shape=model.latent_shape,
        schedule=whole(n_frames * rows * columns),
        token_filter=TokenFilter(top_k=args.top_k, top_p=args.top_p),
        seed=args.seed,
    )


def long_sampler(args: Namespace, model: Net2NetTransformer, rows: int | None) -> VideoSampler:
    """Plan clips longer than the training clips, by a sliding window.

    A model with spatial position embeddings slides over the whole frame it was trained on crops
    of; others slide in time alone.

    Args:
        args: the long sampler's flags.
        model: on its device.
        rows: latent rows and columns asked for, None for the model's own.

    Returns:
        The sampler.

    Raises:
        UserError: the flags do not fit the model.
    """
    _check_condition(args, model)
    gpt = model.transformer
    window_shape = model.latent_shape
    frame_shape = window_shape[1:] if gpt.vtokens_grid is None else gpt.vtokens_grid[1:]
    if rows is not None and frame_shape != (rows, rows):
        raise UserError(
            f"--sample_resolution got {rows}; expected {frame_shape[0]}, the model's latent rows "
            f"and columns are {frame_shape[0]}x{frame_shape[1]}"
        )
    n_inputs = gpt.block_size + 1 - model.conditioner.n_tokens
    tokens_per_frame = window_shape[1] * window_shape[2]
    check_sliding_args(args, n_inputs // tokens_per_frame)
    canvas_shape = (args.sample_length, *frame_shape)
    if gpt.vtokens_grid is None:
        schedule = sliding(args.sample_length, tokens_per_frame, args.temporal_sample_pos)
    else:
        inside = (min(window_shape[0], args.sample_length), *window_shape[1:])
        schedule = spatial(canvas_shape, inside, args.temporal_sample_pos)
    return VideoSampler(
        model=model,
        latent_shape=canvas_shape,
        schedule=schedule,
        token_filter=TokenFilter(top_k=args.top_k, top_p=args.top_p),
        seed=args.seed,
    )


def _check_condition(args: Namespace, model: Net2NetTransformer) -> None:
    """Refuse a model that needs, or lacks, what ``--class_cond`` says."""
    kind = model.conditioner.batch_key
    if model.transformer.n_unmasked:
        raise UserError(
            "--gpt_ckpt got an interpolation model (n_unmasked > 0), which only fills in between "
            "key frames; expected an autoregressive model"
        )
    if kind in ("text", "stft"):
        raise UserError(
            f"--gpt_ckpt got a model conditioned on {kind}; expected one conditioned "
            "on class labels or on nothing"
        )
    if args.class_cond and model.unconditional:
        raise UserError(
            "--class_cond got an unconditional --gpt_ckpt; expected a model trained "
            "with class labels: leave the flag out"
        )
    if not args.class_cond and not model.unconditional:
        log.warning(
            "--gpt_ckpt is class-conditional: every class is sampled equally often, as "
            "with --class_cond"
        )
