"""From a sampler's flags to what will be sampled: models on their device, levels, schedules."""

from __future__ import annotations

import dataclasses
import logging
from argparse import Namespace
from collections.abc import Sequence

import torch

from tats.devices import choose_device
from tats.errors import UserError
from tats.flag_checks import INTERPOLATION_STRIDE
from tats.flags import check_sliding_args
from tats.models.gpt import GPT
from tats.models.transformer import Net2NetTransformer
from tats.sampling.draw import TokenFilter
from tats.sampling.engines import quantize_
from tats.sampling.pixels import FrameDecoder
from tats.sampling.prime import prime_codes
from tats.sampling.videos import Level, VideoSampler
from tats.sampling.windows import Window, infill, sliding, spatial, whole

log = logging.getLogger(__name__)

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}


def place_model(model: Net2NetTransformer, device: str, precision: str) -> Net2NetTransformer:
    """Move a model to the device it will sample on.

    On a processor without products of bfloat16 numbers, bfloat16 is how the transformer's weights
    are stored, which is faster; the VQGAN, which would be slower, stays in float32.

    Args:
        model: as loaded.
        device: ``--device``; "auto" is the GPU where there is one, this process's own of several.
        precision: ``--precision``, a key of ``PRECISIONS``.

    Returns:
        The same model.

    Raises:
        UserError: there is no such device, or it has no such precision.
    """
    place = choose_device(device)
    if place.type == "cpu" and precision == "16":
        raise UserError("--precision got 16 on a CPU; expected 32 or bf16, or a GPU")
    try:
        model = model.to(place)
        if place.type == "cpu" and precision == "bf16" and not _multiplies_bfloat16():
            model.transformer.to(PRECISIONS[precision])
            return model
        return model.to(PRECISIONS[precision])
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device got {device}, which cannot be used ({reason})") from error


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for it (AVX-512 BF16 or AMX)."""
    library = torch.backends.mkldnn
    return library.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def short_sampler(args: Namespace, model: Net2NetTransformer) -> VideoSampler:
    """Plan clips as long as the training clips.

    Args:
        args: the short sampler's flags.
        model: on its device; its GPT can be used by nobody else afterwards.

    Returns:
        The sampler.

    Raises:
        UserError: the flags do not fit the model.
    """
    _check_condition(args, model, flag="--gpt_ckpt")
    n_tokens = torch.Size(model.latent_shape).numel()
    return _sampler(args, [_level(args, model, whole(n_tokens))], model.latent_shape)


def long_sampler(args: Namespace, model: Net2NetTransformer, rows: int | None) -> VideoSampler:
    """Plan clips longer than the training clips, by a sliding window.

    A model with spatial position embeddings slides over the whole frame it was trained on crops
    of; others slide in time alone.

    Args:
        args: the long sampler's flags.
        model: on its device; its GPT can be used by nobody else afterwards.
        rows: latent rows and columns asked for, None for the model's own.

    Returns:
        The sampler.

    Raises:
        UserError: the flags do not fit the model.
    """
    _check_condition(args, model, flag="--gpt_ckpt")
    canvas_shape = (args.sample_length, *_frame_shape(model, rows))
    _check_context(args, model)
    window_shape = model.latent_shape
    if model.transformer.vtokens_grid is None:
        tokens_per_frame = window_shape[1] * window_shape[2]
        schedule: Sequence[Window] = sliding(
            args.sample_length, tokens_per_frame, args.temporal_sample_pos
        )
    else:
        inside = (min(window_shape[0], args.sample_length), *window_shape[1:])
        schedule = spatial(canvas_shape, inside, args.temporal_sample_pos)
    return _sampler(args, [_level(args, model, schedule)], canvas_shape)


def hierarchical_sampler(
    args: Namespace, key_model: Net2NetTransformer, fill_model: Net2NetTransformer, rows: int | None
) -> VideoSampler:
    """Plan long clips: key frames first, then the frames between them.

    Args:
        args: the hierarchical sampler's flags.
        key_model: writes every fourth latent frame, by a sliding window; on its device.
        fill_model: an interpolation model; on the same device. Neither's GPT can be used by
            anybody else afterwards.
        rows: latent rows and columns asked for, None for the models' own.

    Returns:
        The sampler.

    Raises:
        UserError: the flags do not fit the models, or these each other.

    Source: Ge et al. §3.3.
    """
    _check_condition(args, key_model, flag="--ckpt1")
    if not fill_model.transformer.n_unmasked:
        raise UserError(
            "--ckpt2 got a model without n_unmasked, which cannot look at the next key frame; "
            "expected an interpolation model, trained with --n_unmasked"
        )
    _check_condition(args, fill_model, flag="--ckpt2", interpolates=True)
    frame_shape = _frame_shape(key_model, rows)
    if _frame_shape(fill_model, None) != frame_shape:
        raise UserError(
            f"--ckpt2 got a model of {_frame_shape(fill_model, None)} latent frames; expected "
            f"{frame_shape} as --ckpt1"
        )
    if fill_model.cond_vocab_size != key_model.cond_vocab_size and args.class_cond:
        raise UserError(
            f"--ckpt2 got a model of {fill_model.cond_vocab_size} classes; expected "
            f"{key_model.cond_vocab_size} as --ckpt1"
        )
    tokens_per_frame = frame_shape[0] * frame_shape[1]
    if fill_model.transformer.n_unmasked != tokens_per_frame:
        raise UserError(
            f"--ckpt2 got a model with n_unmasked {fill_model.transformer.n_unmasked}; expected "
            f"{tokens_per_frame}, the tokens of a latent frame"
        )
    _check_context(args, key_model)
    stride, n_frames = INTERPOLATION_STRIDE, args.sample_length + 1
    n_keys = args.sample_length // stride + 1
    keys = _spread(sliding(n_keys, tokens_per_frame, args.temporal_sample_pos), tokens_per_frame)
    start = _level(args, key_model, keys[:1])
    start = dataclasses.replace(
        start, token_filter=TokenFilter(top_k=args.top_k_init, top_p=args.top_p_init)
    )
    rest = dataclasses.replace(
        start,
        schedule=keys[1:],
        token_filter=TokenFilter(top_k=args.top_k, top_p=args.top_p),
    )
    between = _level(args, fill_model, infill(n_frames, tokens_per_frame, stride))
    between = dataclasses.replace(between, interpolation=args.interpolation)
    return _sampler(args, [start, rest, between], (n_frames, *frame_shape))


def _sampler(
    args: Namespace, levels: Sequence[Level], latent_shape: tuple[int, int, int]
) -> VideoSampler:
    vqgan = levels[0].model.first_stage_model
    assert vqgan is not None, "samplers load the VQGAN"
    return VideoSampler(
        levels=tuple(levels),
        decoder=FrameDecoder(vqgan),
        latent_shape=latent_shape,
        seed=args.seed,
        known=prime_codes(args, vqgan, latent_shape) if args.prime else None,
    )


def _level(args: Namespace, model: Net2NetTransformer, schedule: Sequence[Window]) -> Level:
    return Level(
        model=model,
        gpt=prepare_gpt(model, args.weights),
        schedule=schedule,
        token_filter=TokenFilter(top_k=args.top_k, top_p=args.top_p),
    )


def prepare_gpt(model: Net2NetTransformer, weights: str) -> GPT:
    """Make a model's GPT ready for sampling; nobody else can use it afterwards.

    Args:
        model: on its device.
        weights: ``--weights``.

    Raises:
        UserError: its weights cannot be had in this format.
    """
    try:
        if weights == "int8":
            quantize_(model.transformer)
    except ValueError as error:
        raise UserError(f"--weights got {weights}: {error}") from error
    return model.transformer


def _spread(schedule: list[Window], tokens_per_frame: int) -> list[Window]:
    """Move a schedule over key frames 0, 1, 2 ... to their places among all frames."""

    def moved(indices: tuple[int, ...]) -> tuple[int, ...]:
        stride = INTERPOLATION_STRIDE * tokens_per_frame
        return tuple(
            key * stride + token for key, token in (divmod(i, tokens_per_frame) for i in indices)
        )

    return [Window(write=moved(w.write), past=moved(w.past)) for w in schedule]


def _frame_shape(model: Net2NetTransformer, rows: int | None) -> tuple[int, int]:
    """Latent rows and columns the model samples, which ``--sample_resolution`` must agree with."""
    grid = model.transformer.vtokens_grid
    height, width = model.latent_shape[1:] if grid is None else grid[1:]
    if rows is not None and (height, width) != (rows, rows):
        raise UserError(
            f"--sample_resolution got {rows}; expected {height}, the model's latent rows "
            f"and columns are {height}x{width}"
        )
    return height, width


def _check_context(args: Namespace, model: Net2NetTransformer) -> None:
    n_inputs = model.transformer.block_size + 1 - model.conditioner.n_tokens
    check_sliding_args(args, n_inputs // (model.latent_shape[1] * model.latent_shape[2]))


def _check_condition(
    args: Namespace, model: Net2NetTransformer, *, flag: str, interpolates: bool = False
) -> None:
    """Refuse a model that needs, or lacks, what ``--class_cond`` says."""
    kind = model.conditioner.batch_key
    if model.transformer.n_unmasked and not interpolates:
        raise UserError(
            f"{flag} got an interpolation model (n_unmasked > 0), which only fills in between "
            "key frames; expected an autoregressive model"
        )
    if kind in ("text", "stft"):
        raise UserError(
            f"{flag} got a model conditioned on {kind}; expected one conditioned "
            "on class labels or on nothing"
        )
    if args.class_cond and model.unconditional:
        raise UserError(
            f"--class_cond got an unconditional {flag}; expected a model trained "
            "with class labels: leave the flag out"
        )
    if not args.class_cond and not model.unconditional:
        log.warning(
            "%s is class-conditional: every class is sampled equally often, as with --class_cond",
            flag,
        )
