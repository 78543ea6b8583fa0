"""Cross-checks of parsed flags, in the flags' own words, made before any work is done.

Every function raises ``UserError`` on the first thing it finds wrong and returns nothing else of
interest when all is well. They look at the flags only; ``check_writable`` alone touches a disk.
"""

from __future__ import annotations

import math
import os
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from tats.clip_spec import ClipSpec, uses_mugen
from tats.errors import UserError

AXES = ("time", "height", "width")
KNOWN_DATASETS = ("ucf101", "sky", "taichi", "mugen", "drum")
MUGEN_ZOOM_LABELS = (18, 21, 22)
LARGEST_SEED = 2**32 - 1  # what NumPy takes
INTERPOLATION_STRIDE = 4  # key frames lie this many latent frames apart
MUGEN_ONLY_FLAGS = (
    "smap_cond",
    "smap_only",
    "use_onehot_smap",
    "bbox_smap_for_agent",
    "bbox_smap_for_monsters",
    "text_path",
    "use_manual_annotation_only",
    "fixed_start_idx",
    "check_game_length",
    "get_text_only",
    "false_text_prob",
    "random_alien",
    "get_alien_data",
    "get_mixed_rgb_smap",
    "get_mixed_rgb_smap_mugen_only",
    "coinrun_v2_dataloader",
    "coinrun_assets",
)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _at_least(args: Namespace, lowest: int, *names: str) -> None:
    for name in names:
        value = getattr(args, name)
        _require(
            value >= lowest,
            f"--{name} got {value}; expected {lowest} or more",
        )


def _probability(args: Namespace, *names: str) -> None:
    for name in names:
        value = getattr(args, name)
        _require(
            0.0 < value <= 1.0,
            f"--{name} got {value}; expected a number above 0 and up to 1 (1 turns it off)",
        )


# --- data -------------------------------------------------------------------------------------


def check_data_args(args: Namespace) -> None:
    """Check the data flags.

    Raises:
        UserError: a flag is missing or out of range, or two flags exclude each other.
    """
    _require(
        args.data_path is not None,
        "--data_path is missing; expected a dataset folder or an HDF5 file",
    )
    _at_least(args, 1, "batch_size", "resolution", "image_channels", "sample_every_n_frames")
    _at_least(args, 0, "num_workers", "smap_cond")
    _at_least(args, 1, "spatial_length", "text_seq_len")
    _require(
        args.sequence_length >= 1 or (args.sequence_length == -1 and args.image_folder),
        f"--sequence_length got {args.sequence_length}; expected 1 frame or more"
        " (-1, the whole video, is for --image_folder)",
    )
    _require(
        not args.vtokens_pos or args.vtokens,
        "--vtokens_pos got no --vtokens; expected both: only code crops have a place to give",
    )
    _require(
        not (args.vtokens and (args.image_folder or args.stft_data or args.text_cond)),
        "--vtokens got --image_folder, --stft_data or --text_cond beside it; expected none of"
        " them: codes are read from an HDF5 file alone",
    )
    _require(
        not args.stft_data or args.sample_every_n_frames == 1,
        f"--sample_every_n_frames got {args.sample_every_n_frames} with --stft_data; expected 1:"
        " every frame has its own piece of the sound",
    )
    if not uses_mugen(args):
        _check_no_mugen_flags(args)
    _require(
        args.max_label in MUGEN_ZOOM_LABELS,
        f"--max_label got {args.max_label}; expected one of {MUGEN_ZOOM_LABELS}",
    )


def _check_no_mugen_flags(args: Namespace) -> None:
    for name in MUGEN_ONLY_FLAGS:
        value = getattr(args, name)
        _require(
            not value,
            f"--{name} got {value} with --data_path {args.data_path}; expected MUGEN clips (a"
            " folder with 'coinrun' in its path): leave the flag out",
        )


# --- training ---------------------------------------------------------------------------------


def check_vqgan_args(args: Namespace) -> None:
    """Check the flags of VQGAN training, the data flags included.

    Raises:
        UserError: a flag is out of range, or the clip does not divide into latent cells.
    """
    check_data_args(args)
    _require(
        not args.vtokens,
        "--vtokens is for the transformer; a VQGAN trains on frames: leave it out",
    )
    _at_least(args, 1, "embedding_dim", "n_hiddens", "disc_channels", "disc_layers")
    _at_least(args, 2, "n_codes")
    _at_least(args, 0, "discriminator_iter_start")
    weights = ("image_gan_weight", "video_gan_weight", "gan_feat_weight", "perceptual_weight")
    _at_least(args, 0, "l1_weight", "restart_thres", *weights)
    _check_run(args, "lr")
    _check_group_norm(args)
    check_clip(ClipSpec.from_flags(args), args.downsample)


def _check_run(args: Namespace, rate_flag: str) -> None:
    """Check what every training run needs of its flags and Lightning itself does not check."""
    _require(
        not args.smap_cond,
        f"--smap_cond got {args.smap_cond}; expected 0: no model here reads the map beside a clip"
        " (--smap_only trains on it)",
    )
    _require(
        not args.get_text_only,
        "--get_text_only gives clips without pictures; expected pictures to train on: leave it out",
    )
    rate = getattr(args, rate_flag)
    _require(rate > 0, f"--{rate_flag} got {rate}; expected a learning rate above 0")
    _at_least(args, 1, "accumulate_grad_batches", "num_nodes", "log_every_n_steps")
    _at_least(args, -1, "max_steps")
    _at_least(args, 0, "save_every_minutes", "max_skipped_steps")
    for name in ("checkpoint_every_n_steps", "keep_checkpoints"):
        if getattr(args, name) is not None:
            _at_least(args, 1, name)
    if args.progress_bar_refresh_rate is not None:
        _at_least(args, 0, "progress_bar_refresh_rate")
    check_seed(args)


def check_seed(args: Namespace) -> None:
    """Check ``--seed``, which every script has.

    Raises:
        UserError: it is out of range.
    """
    _require(
        0 <= args.seed <= LARGEST_SEED,
        f"--seed got {args.seed}; expected a number from 0 to {LARGEST_SEED}",
    )


def _check_group_norm(args: Namespace) -> None:
    if args.norm_type != "group":
        return
    narrowest = args.n_hiddens * (2 if max(args.downsample) > 1 else 1)
    _require(
        narrowest % 32 == 0,
        f"--n_hiddens got {args.n_hiddens}; expected a multiple of 16: --norm_type group makes 32"
        " groups of twice as many channels (or use --norm_type batch)",
    )


def check_clip(clip: ClipSpec, downsample: Sequence[int]) -> None:
    """Check that a training clip divides into latent cells.

    Args:
        clip: the clip, of pixels.
        downsample: pixels per latent cell along the same axes.

    Raises:
        UserError: it does not.
    """
    _require(
        all(rate >= 1 and rate & (rate - 1) == 0 for rate in downsample),
        f"--downsample got {' '.join(map(str, downsample))}; expected powers of 2",
    )
    flags = ("sequence_length", "resolution", "resolution")
    for axis, flag, size, rate in zip(AXES, flags, clip.shape, downsample, strict=True):
        _require(
            size >= rate and size % rate == 0,
            f"--{flag} gives {size} along {axis}; expected a multiple of --downsample's {rate}",
        )


def check_transformer_args(args: Namespace) -> None:
    """Check the flags of transformer training, the data flags included.

    Raises:
        UserError: a flag is missing or out of range, or two flags exclude each other.
    """
    check_data_args(args)
    _require(
        args.vtokens or args.vqvae is not None,
        "--vqvae is missing; expected a trained VQGAN checkpoint (or --vtokens)",
    )
    _require(
        ClipSpec.from_flags(args).kind != "spectrogram",
        "--image_channels got 1 with --stft_data; expected 3: a transformer models the pictures,"
        " and the sounds are its condition",
    )
    _at_least(args, 1, "block_size", "n_layer", "n_head", "n_embd", "first_stage_vocab_size")
    _at_least(args, 0, "n_unmasked", "sample_every_n_latent_frames")
    _check_run(args, "base_lr")
    _require(
        args.n_embd % args.n_head == 0,
        f"--n_embd got {args.n_embd}; expected a multiple of --n_head {args.n_head}",
    )
    _require(
        args.n_unmasked != 1,
        "--n_unmasked got 1, which would let every position see everything; expected 0 (causal)"
        " or the tokens of one latent frame",
    )
    _require(
        2 * args.n_unmasked <= args.block_size,
        f"--n_unmasked got {args.n_unmasked}; expected at most half of --block_size"
        f" {args.block_size}: the first and the last frame are seen by all",
    )
    _check_condition(args)


def _check_condition(args: Namespace) -> None:
    needs = {"text": ("text_cond",), "stft": ("stft_data", "stft_vqvae"), "label": ()}
    for name in needs[args.cond_stage_key]:
        _require(
            bool(getattr(args, name)),
            f"--cond_stage_key {args.cond_stage_key} got no --{name}; expected it beside it",
        )
    _require(
        not args.vtokens_pos or args.cond_stage_key == "label",
        f"--vtokens_pos got --cond_stage_key {args.cond_stage_key}; expected label or"
        " --unconditional: the condition must be one token",
    )


def check_block_size(
    args: Namespace, n_condition_tokens: int, latent_shape: tuple[int, int, int]
) -> None:
    """Check that a sequence fits ``--block_size``, once the first stage is known.

    Args:
        args: the transformer's flags.
        n_condition_tokens: tokens in front of the video's.
        latent_shape: (t, h, w) of one sample, after ``--sample_every_n_latent_frames``.

    Raises:
        UserError: the sequence is longer than the block.
    """
    n_frames, height, width = latent_shape
    n_read = n_condition_tokens + n_frames * height * width - 1  # the last token is never read
    _require(
        n_read <= args.block_size,
        f"--block_size got {args.block_size}; expected at least {n_read}: {n_condition_tokens}"
        f" condition tokens and {n_frames}x{height}x{width} video tokens, less the last one",
    )


def check_sound_length(args: Namespace, sound: ClipSpec) -> None:
    """Check that clips are as long as those ``--stft_vqvae`` was trained on, once it is known.

    Args:
        args: the transformer's flags.
        sound: the STFT-VQGAN's training clips.

    Raises:
        UserError: they are not.
    """
    _require(
        ClipSpec.from_flags(args).frames == sound.frames,
        f"--sequence_length got {args.sequence_length}; expected {sound.frames}, the length of the"
        " sounds --stft_vqvae was trained on",
    )


# --- sampling ---------------------------------------------------------------------------------


def check_sampling_args(args: Namespace) -> None:
    """Check the flags that all samplers share.

    Raises:
        UserError: a checkpoint is not named, or a flag is out of range.
    """
    needed = ("gpt_ckpt", "vqgan_ckpt", "stft_vqgan_ckpt", "ckpt1", "ckpt2", "vqgan")
    for name in needed:
        _require(
            not hasattr(args, name) or getattr(args, name) is not None,
            f"--{name} is missing; expected a trained checkpoint",
        )
    given = vars(args)
    counts = [name for name in ("n_sample", "batch_size") if name in given]
    _at_least(args, 1, *(name for name in counts if given[name] not in (None, "auto")))
    numbers = ("prime_frames", "top_k", "top_k_init", "run")
    _at_least(args, 0, *(name for name in numbers if name in given))
    _probability(args, *(name for name in ("top_p", "top_p_init") if name in given))
    check_seed(args)
    _require(
        0 <= args.temperature < math.inf,
        f"--temperature got {args.temperature}; expected 0 (always the likeliest token) or more",
    )
    labels = given.get("class_label") or ()
    _require(
        all(label >= 0 for label in labels),
        f"--class_label got {' '.join(map(str, labels))}; expected numbers of classes, from 0",
    )
    _check_dataset_name(args)
    _require(
        not getattr(args, "compute_fvd", False) or getattr(args, "data_path", None) is not None,
        "--compute_fvd got no --data_path; expected the folder of the real clips",
    )


def _check_dataset_name(args: Namespace) -> None:
    """Take a known name, or a usable one whose data the user has named too."""
    usable = all(c.isalnum() or c in "._-" for c in args.dataset) and args.dataset.strip(".")
    needs_path = "data_path" in vars(args) and args.data_path is None
    _require(
        args.dataset in KNOWN_DATASETS or (bool(usable) and not needs_path),
        f"--dataset got {args.dataset!r}; expected one of {', '.join(KNOWN_DATASETS)}, or a name"
        " of letters, digits, '.', '_' and '-' together with --data_path",
    )


def check_sliding_args(args: Namespace, n_block_frames: int) -> None:
    """Check the flags of sliding-window sampling, once the transformer is known.

    Args:
        args: the sampler's flags.
        n_block_frames: latent frames one block of the transformer holds.

    Raises:
        UserError: the length or the context does not fit.
    """
    _at_least(args, 1, "sample_length", "temporal_sample_pos")
    context = args.temporal_sample_pos
    _require(
        context < n_block_frames,
        f"--temporal_sample_pos got {context}; expected less than {n_block_frames}, the latent"
        " frames the transformer can read",
    )
    _require(
        context < args.sample_length,
        f"--temporal_sample_pos got {context}; expected less than --sample_length"
        f" {args.sample_length}: the first window would already fill the video",
    )


def check_hierarchical_args(args: Namespace) -> None:
    """Check what only the hierarchical sampler asks of its flags.

    Raises:
        UserError: the length is no whole number of gaps between key frames.
    """
    check_sampling_args(args)
    _at_least(args, INTERPOLATION_STRIDE, "sample_length")
    _require(
        args.sample_length % INTERPOLATION_STRIDE == 0,
        f"--sample_length got {args.sample_length}; expected a multiple of"
        f" {INTERPOLATION_STRIDE}: key frames lie {INTERPOLATION_STRIDE} latent frames apart",
    )


# --- disk -------------------------------------------------------------------------------------


def check_writable(folder: str | os.PathLike[str], flag: str) -> None:
    """Make an output folder, and make sure that files can be written in it.

    Args:
        folder: the folder, made with its parents if need be.
        flag: the flag that named it, without its dashes.

    Raises:
        UserError: it cannot be made or written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"--{flag} got {folder}; expected a folder that can be written"
            f" ({error.strerror or error}): choose another"
        ) from error


def check_may_write(folder: str | os.PathLike[str], flag: str) -> None:
    """Make sure that an output folder could be made and written, and leave nothing behind.

    Args:
        folder: the folder, which need not exist yet.
        flag: the flag that named it, without its dashes.

    Raises:
        UserError: it cannot be made or written.
    """
    path = Path(folder).expanduser().absolute()
    check_writable(next(place for place in (path, *path.parents) if place.exists()), flag)
