"""Every command-line flag, declared once: name, type, default, unit and a sentence.

The scripts add the groups they need and hand the parsed flags to the checks of
``tats.flag_checks``, which are re-exported here. Building a parser and parsing touch no disk.
Names and defaults are those of the published scripts; the ones below a line saying "ours" are new.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from tats.flag_checks import (
    check_block_size,
    check_clip,
    check_data_args,
    check_hierarchical_args,
    check_may_write,
    check_sampling_args,
    check_seed,
    check_sliding_args,
    check_sound_length,
    check_transformer_args,
    check_vqgan_args,
    check_writable,
)

__all__ = [
    "add_audio_sampling_flags",
    "add_data_flags",
    "add_hierarchical_sampling_flags",
    "add_long_sampling_flags",
    "add_short_sampling_flags",
    "add_text_sampling_flags",
    "add_trainer_flags",
    "add_transformer_flags",
    "add_vqgan_flags",
    "check_block_size",
    "check_clip",
    "check_data_args",
    "check_hierarchical_args",
    "check_may_write",
    "check_sampling_args",
    "check_seed",
    "check_sliding_args",
    "check_sound_length",
    "check_transformer_args",
    "check_vqgan_args",
    "check_writable",
    "new_parser",
    "passthrough_trainer_settings",
    "with_defaults",
]

ConditionKey = Literal["label", "text", "stft"]
DiscriminatorLoss = Literal["hinge", "vanilla"]
Interpolation = Literal["released", "trained"]
Norm = Literal["group", "batch"]
Padding = Literal["replicate", "constant", "reflect", "circular"]
SamplingPrecision = Literal["32", "bf16", "16"]
WeightFormat = Literal["full", "int8"]

# --- the types a flag can have, besides int, float and str ------------------------------------


def switch(text: str) -> bool:
    """Read yes or no; a flag of this type may also be given without a value, meaning yes."""
    lowered = text.lower()
    if lowered in ("true", "yes", "on", "1"):
        return True
    if lowered in ("false", "no", "off", "0"):
        return False
    raise argparse.ArgumentTypeError(f"got {text!r}; expected true or false")


def count_or_fraction(text: str) -> int | float:
    """Read a whole number as a count and a number with a point as a fraction."""
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}; expected a count like 10 or a fraction like 0.5"
        ) from None


def count_or_auto(text: str) -> int | str:
    """Read a count, or ``auto``."""
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a count or auto") from None


def count_or_none(text: str) -> int | None:
    """Read a count, or ``none``."""
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a count or none") from None


def count_or_switch(text: str) -> int | bool:
    """Read a count of batches, or yes / no."""
    return int(text) if text.isdecimal() and text not in ("0", "1") else switch(text)


def switch_or_warn(text: str) -> bool | str:
    """Read yes, no, or ``warn``."""
    return text if text == "warn" else switch(text)


def logger_name(text: str) -> str | bool:
    """Read the name of a logger, or yes (TensorBoard) or no."""
    if text in ("tensorboard", "csv", "wandb"):
        return text
    try:
        return "tensorboard" if switch(text) else False
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}; expected tensorboard, csv, wandb or false"
        ) from None


def plain_value(text: str) -> bool | int | float | str | None:
    """Read a value of a Trainer flag this project gives no meaning of its own."""
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


OPTIONAL_VALUE = (switch, count_or_switch, switch_or_warn, logger_name)  # `--flag` alone means true


# --- one line per flag ------------------------------------------------------------------------


@dataclass(frozen=True)
class Flag:
    """One command-line flag.

    Args:
        name: spelling without the dashes; also the attribute of the parsed flags.
        type: turns the text into a value.
        default: value when the flag is absent.
        unit: unit or range, shown in the help; empty where there is none.
        help: one sentence.
        choices: the ``Literal`` whose members are allowed.
        nargs: number of values where it is not one; "+" for one or more.
        alias: a second spelling.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    unit: str
    help: str
    choices: Any = None
    nargs: int | Literal["+"] | None = None
    alias: str | None = None

    def but(self, **changes: Any) -> Flag:
        """Give the same flag with another default, unit or sentence for one script."""
        return replace(self, **changes)

    def fresh_default(self) -> Any:
        """Give the default in the type that parsing gives."""
        return list(self.default) if isinstance(self.default, tuple) else self.default

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        """Declare this flag in an argparse group."""
        options: dict[str, Any] = {"dest": self.name, "type": self.type}
        options["default"] = self.fresh_default()
        options["help"] = " ".join((f"[{self.unit}]" if self.unit else "", self.help)).strip()
        if self.type in OPTIONAL_VALUE:
            options.update(nargs="?", const=True, metavar="true|false")
        elif self.choices is not None:
            options["choices"] = get_args(self.choices)
        if self.nargs is not None:
            options["nargs"] = self.nargs
        spellings = [self.name, *([self.alias] if self.alias else [])]
        group.add_argument(*(f"--{spelling}" for spelling in spellings), **options)


# fmt: off
DATA_PATH = Flag("data_path",             str,    None,   "path",     "dataset folder, or an HDF5 file")
BATCH_SIZE = Flag("batch_size",            int,    32,     "clips",    "clips per batch and device")
NUM_WORKERS = Flag("num_workers",           int,    8,      "processes", "data-loading processes per device")
IMAGE_FOLDER = Flag("image_folder",          switch, False,  "",         "the dataset holds folders of frames instead of videos")
SAMPLE_EVERY_N_FRAMES = Flag("sample_every_n_frames", int,    1,      "frames",   "keep every n-th frame")

DATA_FLAGS = (
    DATA_PATH,
    Flag("sequence_length",       int,    16,     "frames",   "length of a training clip, before --sample_every_n_frames; -1 = whole video"),
    Flag("resolution",            int,    64,     "pixels",   "height and width of a clip; latent cells with --vtokens"),
    BATCH_SIZE,
    NUM_WORKERS,
    Flag("image_channels",        int,    3,      "channels", "colour channels of a clip"),
    IMAGE_FOLDER,
    SAMPLE_EVERY_N_FRAMES,
    Flag("vtokens",               switch, False,  "",         "the HDF5 file holds codes instead of frames"),
    Flag("vtokens_pos",           switch, False,  "",         "give code crops their place in the whole frame"),
    Flag("spatial_length",        int,    15,     "cells",    "height and width of a code crop, with --vtokens"),
    Flag("stft_data",             switch, False,  "",         "the dataset holds sound spectrograms beside its videos"),
    Flag("text_cond",             switch, False,  "",         "the dataset's clips come with captions"),
    Flag("text_seq_len",          int,    256,    "tokens",   "length of a tokenized caption"),
    Flag("truncate_captions",     switch, None,   "",         "cut captions that are too long instead of stopping; default: yes for MUGEN, else no"),
    Flag("balanced_sampler",      switch, False,  "",         "draw every class equally often"),
)

MUGEN_FLAGS = (
    Flag("smap_cond",                     int,    0,     "channels", "above 0, clips come with their semantic map (video_smap), which no model here reads"),
    Flag("smap_only",                     switch, False, "",  "train on the semantic map in place of the picture"),
    Flag("max_label",                     int,    18,    "18|21|22", "highest label of the semantic map"),
    Flag("use_onehot_smap",               switch, False, "",  "one channel per label of the semantic map"),
    Flag("bbox_smap_for_agent",           switch, False, "",  "draw the agent as a box in the semantic map"),
    Flag("bbox_smap_for_monsters",        switch, False, "",  "draw monsters as boxes in the semantic map"),
    Flag("text_path",                     str,    None,  "path", "JSON of captions that people wrote, by clip name; they take the place of generated ones"),
    Flag("use_manual_annotation_only",    switch, False, "",  "leave out clips without a manual annotation"),
    Flag("fixed_start_idx",               switch, False, "",  "clips start at the game's first frame"),
    Flag("check_game_length",             switch, False, "",  "leave out games shorter than a clip"),
    Flag("get_text_only",                 switch, False, "",  "read captions without rendering frames; nothing trains on these"),
    Flag("false_text_prob",               float,  0.0,   "0..1", "0 alone is accepted: wrong captions serve a loss that no model here has"),
    Flag("random_alien",                  switch, False, "",  "draw the player in a random colour"),
    Flag("get_alien_data",                switch, False, "",  "not accepted: no model here reads the player's colour"),
    Flag("get_mixed_rgb_smap",            switch, False, "",  "picture frames followed by semantic-map frames"),
    Flag("get_mixed_rgb_smap_mugen_only", switch, False, "",  "the same, with the map showing the player alone"),
    Flag("coinrun_v2_dataloader",         switch, False, "",  "expect the released index, {train,val}.json, rather than game files in folders"),
    Flag("coinrun_assets",                str,    None,  "path", "folder of MUGEN's sprite files; absent = sprites of our own, which look different"),
)

VQGAN_FLAGS = (
    Flag("embedding_dim",           int,    256,       "channels",  "width of a codebook entry"),
    Flag("n_codes",                 int,    2048,      "codes",     "size of the codebook"),
    Flag("n_hiddens",               int,    240,       "channels",  "width of the autoencoder's first layer"),
    Flag("lr",                      float,  3e-4,      "",          "learning rate for 8 GPUs and 4 clips each; scaled to the run"),
    Flag("downsample",              int,    (4, 4, 4), "powers of 2", "pixels per latent cell along time, height and width", nargs=3),
    Flag("disc_channels",           int,    64,        "channels",  "width of the discriminators' first layer"),
    Flag("disc_layers",             int,    3,         "layers",    "strided layers of a discriminator"),
    Flag("discriminator_iter_start", int,   50000,     "steps",     "step at which the adversarial losses begin"),
    Flag("disc_loss_type",          str,    "hinge",   "",          "loss of the discriminators", DiscriminatorLoss),
    Flag("image_gan_weight",        float,  1.0,       "",          "weight of the image discriminator's losses"),
    Flag("video_gan_weight",        float,  1.0,       "",          "weight of the video discriminator's losses"),
    Flag("l1_weight",               float,  4.0,       "",          "weight of the pixel loss"),
    Flag("gan_feat_weight",         float,  0.0,       "",          "weight of discriminator feature matching"),
    Flag("perceptual_weight",       float,  0.0,       "",          "weight of the perceptual loss; above 0 it needs LPIPS' weights"),
    Flag("restart_thres",           float,  1.0,       "vectors",   "usage below which a code is replaced"),
    Flag("no_random_restart",       switch, False,     "",          "leave unused codes alone"),
    Flag("norm_type",               str,    "group",   "",          "normalisation of the autoencoder", Norm),
    Flag("padding_type",            str,    "replicate", "",        "padding of the encoder's strided convolutions", Padding),
    Flag("i3d_feat",                switch, False,     "",          "accepted for old command lines, without effect"),
    # ours
    Flag("single_forward",          switch, False,     "",          "judge the autoencoder's own forward pass: faster, not the published training"),
)

TRANSFORMER_FLAGS = (
    Flag("vqvae",                        str,    None,    "path",   "trained VQGAN checkpoint"),
    Flag("stft_vqvae",                   str,    None,    "path",   "trained VQGAN checkpoint of sound spectrograms"),
    Flag("unconditional",                switch, False,   "",       "train without a condition"),
    Flag("base_lr",                      float,  4.5e-6,  "",       "learning rate per clip of the whole batch"),
    Flag("vocab_size",                   int,    16384,   "tokens", "accepted for old command lines: the vocabulary follows from the data"),
    Flag("first_stage_vocab_size",       int,    16384,   "codes",  "codebook size behind --vtokens"),
    Flag("block_size",                   int,    256,     "tokens", "longest sequence the transformer can read"),
    Flag("n_layer",                      int,    48,      "layers", "transformer blocks"),
    Flag("n_head",                       int,    24,      "heads",  "attention heads"),
    Flag("n_embd",                       int,    1536,    "channels", "width of the transformer"),
    Flag("n_unmasked",                   int,    0,       "tokens", "first and last tokens that every position may see (interpolation); 0 = causal"),
    Flag("sample_every_n_latent_frames", int,    0,       "frames", "keep every n-th latent frame; 0 = all"),
    Flag("first_stage_key",              str,    "video", "",       "what a clip is called in a batch"),
    Flag("cond_stage_key",               str,    "label", "",       "what the transformer is conditioned on", ConditionKey),
)

SEED = Flag("seed", int, 1234, "0..2^32-1", "seed of every random number")
PRECISION = Flag("precision", str, "32", "32|bf16|16|64|bf16-true|16-true", "number format of the forward and backward pass")

TRAINER_FLAGS = (
    Flag("gpus",                     str,    None,  "count|ids", "GPUs: 8, \"0,2\", -1 for all; 0 or absent = CPU"),
    Flag("num_nodes",                int,    1,     "machines",  "machines that train together"),
    Flag("num_processes",            int,    1,     "processes", "CPU processes that train together"),
    Flag("devices",                  str,    None,  "count|ids", "devices of --accelerator, where it is given"),
    Flag("accelerator",              str,    None,  "",          "cpu, gpu or auto; absent = what --gpus says"),
    Flag("strategy",                 str,    None,  "",          "how processes share the work, such as ddp"),
    Flag("sync_batchnorm",           switch, False, "",          "share batch-norm statistics between GPUs"),
    PRECISION,
    Flag("max_steps",                int,    -1,    "steps",     "stop after this many steps; -1 = no limit"),
    Flag("max_epochs",               int,    None,  "epochs",    "stop after this many epochs; absent = 1000 unless --max_steps is set"),
    Flag("gradient_clip_val",        float,  None,  "norm",      "largest gradient norm of a step"),
    Flag("accumulate_grad_batches",  int,    1,     "batches",   "batches per step"),
    Flag("val_check_interval",       count_or_fraction, None, "batches|fraction", "how often in an epoch to validate; absent = at its end"),
    Flag("check_val_every_n_epoch",  count_or_none, 1, "epochs|none", "validate every n epochs; none = every --val_check_interval batches across epochs"),
    Flag("limit_train_batches",      count_or_fraction, None, "batches|fraction", "part of the training data an epoch uses; absent = all"),
    Flag("limit_val_batches",        count_or_fraction, None, "batches|fraction", "part of the validation data to use; absent = all"),
    Flag("limit_test_batches",       count_or_fraction, None, "batches|fraction", "part of the test data to use; absent = all"),
    Flag("limit_predict_batches",    count_or_fraction, None, "batches|fraction", "part of the prediction data to use; absent = all"),
    Flag("overfit_batches",          count_or_fraction, 0.0, "batches|fraction", "train and validate on these few batches only"),
    Flag("num_sanity_val_steps",     int,    2,     "batches",   "validation batches to try before training"),
    Flag("log_every_n_steps",        int,    50,    "steps",     "how often to write the log"),
    Flag("progress_bar_refresh_rate", int,   None,  "batches",   "how often to redraw the progress bar; 0 = no bar"),
    Flag("enable_progress_bar",      switch, True,  "",          "show a progress bar"),
    Flag("default_root_dir",         str,    None,  "path",      "where checkpoints and logs go; absent = the current folder"),
    Flag("resume_from_checkpoint",   str,    None,  "path|last", "continue from a checkpoint; last = the one of most steps under --default_root_dir"),
    Flag("logger",                   logger_name, "tensorboard", "", "where curves go: tensorboard, csv, wandb (an extra), or false for nowhere"),
    Flag("fast_dev_run",             count_or_switch, False, "batches", "try a few batches and write nothing"),
    Flag("deterministic",            switch_or_warn,  False, "",  "use deterministic algorithms only; warn = say where there is none"),
    Flag("benchmark",                switch, False, "",          "let cuDNN choose its fastest algorithms"),
    Flag("profiler",                 str,    None,  "",          "simple or advanced"),
    Flag("replace_sampler_ddp",      switch, True,  "",          "give every process its own part of the data"),
    # ours
    SEED,
    Flag("checkpoint_every_n_steps", int,    None,  "steps",     "how often to keep a checkpoint; absent = as published"),
    Flag("max_skipped_steps",        int,    10,    "steps",     "steps in a row without a finite loss and gradient to skip before training ends"),
    Flag("keep_checkpoints",         int,    None,  "checkpoints", "how many of those to keep, the newest of the run; absent = all, as published"),
    Flag("save_every_minutes",       float,  30.0,  "minutes",   "how often to replace last.ckpt by the present state; 0 = only when training ends"),
)

# --- flags of the samplers --------------------------------------------------------------------

GPT_CKPT    = Flag("gpt_ckpt",    str,    None,             "path",   "trained transformer checkpoint")
VQGAN_CKPT  = Flag("vqgan_ckpt",  str,    None,             "path",   "trained VQGAN checkpoint")
SAVE        = Flag("save",        str,    "./results/tats", "path",   "folder of the results")
DATASET     = Flag("dataset",     str,    "ucf101",         "",       "ucf101, sky, taichi, mugen, drum, or a name of your own")
N_SAMPLE    = Flag("n_sample",    int,    2048,             "clips",  "clips to sample")
SAMPLE_LENGTH = Flag("sample_length", int, 256,             "latent frames", "length of a clip")
RUN         = Flag("run",         int,    0,                "",       "which samples of --seed: run 1 makes the --n_sample that follow those of run 0")
SAVE_VIDEOS = Flag("save_videos", switch, False,            "",       "write the clips as videos too")
COMPUTE_FVD = Flag("compute_fvd", switch, False,            "",       "compare the clips with those of --data_path")
TOP_K       = Flag("top_k",       int,    2048,             "tokens", "draw among the k likeliest tokens; 0 = all")
TOP_P       = Flag("top_p",       float,  0.92,             "(0, 1]", "draw among the likeliest tokens that make up this probability")
CLASS_COND  = Flag("class_cond",  switch, False,            "",       "sample every class equally often")
# ours
SAMPLING_BATCH_SIZE = BATCH_SIZE.but(type=count_or_auto, unit="clips", help="clips sampled together; auto = what fits the memory")
CLASS_LABEL  = Flag("class_label",  int,   None, "classes", "numbers of the classes to sample in turn, in place of all; needs a class-conditional model", nargs="+")
I3D_PATH     = Flag("i3d_path",     str,   None, "path",    "I3D weights for --compute_fvd; absent = those that were fetched")
PRIME_FRAMES = Flag("prime_frames", int,   0,    "frames",  "frames of --prime to keep; 0 = what there is, up to half the video")

COMMON_SAMPLING_FLAGS = (  # ours
    SEED.but(default=0, help="which samples: sample i of a seed is always the same; two seeds share no sample"),
    Flag("temperature", float,  1.0,    "0 or more", "what the logits are divided by before a token is drawn; 0 = always the likeliest"),
    PRECISION.but(unit="", help="number format of the transformer and the decoder", choices=SamplingPrecision),
    Flag("weights",     str,    "full", "",     "full = in --precision; int8 = in 8 bits, faster on a CPU, slightly other samples", WeightFormat),
    Flag("device",      str,    "auto", "",     "device to sample on, such as cpu or cuda:0; auto = the GPU where there is one"),
    Flag("save_codes",  switch, False,  "",     "write the codes too: codes.npy, int32 (n, t, h, w), beside clips.npy"),
    Flag("overwrite",   switch, False,  "",     "delete an earlier result of this very run and sample again"),
)

PRIME_FLAGS = (  # ours
    Flag("prime", str, None, "path", "continue a real clip: a video, a folder of its frames, or .npy of uint8 (T, H, W, 3)"),
    PRIME_FRAMES,
)

SHORT_SAMPLING_FLAGS = (
    GPT_CKPT,
    VQGAN_CKPT,
    SAVE,
    RUN,
    TOP_K,
    TOP_P,
    N_SAMPLE,
    DATASET,
    CLASS_COND,
    SAVE_VIDEOS,
    COMPUTE_FVD,
    # ours
    CLASS_LABEL,
    I3D_PATH,
    *PRIME_FLAGS,
    *COMMON_SAMPLING_FLAGS,
)

SLIDING_FLAGS = (
    Flag("sample_resolution",   int, None, "cells",  "height and width of the latent frames, which must be the model's own; absent = the model's own"),
    Flag("temporal_sample_pos", int, 1,    "frames", "latent frames of context each new latent frame is drawn from"),
    RUN,
    CLASS_COND,
    SAVE_VIDEOS,
    # ours
    CLASS_LABEL,
    *PRIME_FLAGS,
    *COMMON_SAMPLING_FLAGS,
)

LONG_SAMPLING_FLAGS = (
    GPT_CKPT,
    VQGAN_CKPT,
    SAMPLING_BATCH_SIZE.but(default=10),
    SAVE.but(default="./results"),
    TOP_K,
    TOP_P,
    N_SAMPLE.but(default=100),
    SAMPLE_LENGTH,
    DATASET,
    *SLIDING_FLAGS,
)

HIERARCHICAL_SAMPLING_FLAGS = (
    GPT_CKPT.but(name="ckpt1", help="trained autoregressive transformer checkpoint"),
    GPT_CKPT.but(name="ckpt2", help="trained interpolation transformer checkpoint", alias="CKPT2"),
    VQGAN_CKPT.but(name="vqgan"),
    SAMPLING_BATCH_SIZE.but(default=12),
    SAVE.but(default="./results"),
    TOP_K.but(name="top_k_init", help="--top_k of the first window"),
    TOP_P.but(name="top_p_init", default=0.8, help="--top_p of the first window"),
    TOP_K,
    TOP_P.but(default=0.8),
    N_SAMPLE,
    SAMPLE_LENGTH.but(default=64, help="steps from the first latent frame to the last, a multiple of 4: a clip has sample_length + 1 latent frames"),
    DATASET.but(default="taichi", help="taichi, sky, or a name of your own"),
    COMPUTE_FVD,
    *SLIDING_FLAGS,
    # ours
    Flag("interpolation", str, "released", "", "feed the next key frame as the published sampler or as training does", Interpolation),
    I3D_PATH,
    DATA_PATH.but(help="dataset of the real clips"),
    IMAGE_FOLDER,
    SAMPLE_EVERY_N_FRAMES.but(help="keep every n-th frame of a real clip"),
    NUM_WORKERS.but(unit="processes", help="processes that read real clips"),
)

AUDIO_SAMPLING_FLAGS = (
    GPT_CKPT,
    VQGAN_CKPT,
    VQGAN_CKPT.but(name="stft_vqgan_ckpt", help="trained VQGAN checkpoint of sound spectrograms"),
    SAVE,
    DATA_PATH.but(default="./dataset/AudioSet_Dataset/stft", help="spectrogram folder, or the folder that holds it"),
    TOP_K,
    TOP_P,
    N_SAMPLE.but(default=None, help="clips to sample; absent = as many as there are sounds: the test clips, or the windows of --audio"),
    DATASET.but(default="drum", help="drum, or a name of your own"),
    # ours
    Flag("audio", str, None, "path", "sound or video file to condition on in place of the test clips"),
    PRIME_FRAMES.but(help="real frames the samples begin with; 0 = none"),
    RUN,
    SAMPLING_BATCH_SIZE.but(default=8),
    *COMMON_SAMPLING_FLAGS,
)

TEXT_SAMPLING_FLAGS = (
    GPT_CKPT,
    VQGAN_CKPT,
    Flag("text",      str, None, "",     "caption of the clips"),
    Flag("text_file", str, None, "path", "file with one caption a line"),
    SAVE,
    SAMPLING_BATCH_SIZE.but(default=8),
    TOP_K,
    TOP_P,
    N_SAMPLE.but(default=1, help="clips to sample for each caption"),
    DATASET.but(default="mugen", help="mugen, or a name of your own"),
    RUN,
    *COMMON_SAMPLING_FLAGS,
)
# fmt: on

# Settings that checkpoints hold though no flag sets them.
DERIVED_SETTINGS = {"class_cond_dim": None}


# --- parsers ----------------------------------------------------------------------------------


def new_parser(description: str) -> argparse.ArgumentParser:
    """Start a script's parser.

    Args:
        description: one sentence on what the script does.

    Returns:
        A parser that shows defaults in its help and takes no abbreviated flags.
    """
    return argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def _add(parser: argparse.ArgumentParser, title: str, flags: Iterable[Flag]) -> None:
    group = parser.add_argument_group(title)
    for flag in flags:
        flag.add_to(group)


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that choose and shape the training data."""
    _add(parser, "data", DATA_FLAGS)
    _add(parser, "MUGEN data", MUGEN_FLAGS)


def add_vqgan_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the VQGAN and its losses."""
    _add(parser, "VQGAN", VQGAN_FLAGS)


def add_transformer_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the transformer and its condition."""
    _add(parser, "transformer", TRANSFORMER_FLAGS)


def add_short_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the short sampler, which reads real clips for its FVD."""
    data = [flag if flag != BATCH_SIZE else SAMPLING_BATCH_SIZE for flag in DATA_FLAGS]
    _add(parser, "data", data)
    _add(parser, "MUGEN data", MUGEN_FLAGS)
    _add(parser, "sampling", SHORT_SAMPLING_FLAGS)


def add_long_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the sliding-window sampler."""
    _add(parser, "sampling", LONG_SAMPLING_FLAGS)


def add_hierarchical_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the key-frame and interpolation sampler."""
    _add(parser, "sampling", HIERARCHICAL_SAMPLING_FLAGS)


def add_audio_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the audio-conditioned sampler."""
    _add(parser, "sampling", AUDIO_SAMPLING_FLAGS)


def add_text_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the text-conditioned sampler."""
    _add(parser, "sampling", TEXT_SAMPLING_FLAGS)


def add_trainer_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the Trainer.

    The names of Lightning 1.5 that this project gives a meaning come first, then every other
    setting today's Trainer takes from a command line, then the names of 1.5 that are refused.
    """
    _add(parser, "trainer", TRAINER_FLAGS)
    declared = {flag.name for flag in TRAINER_FLAGS}
    group = parser.add_argument_group("settings handed to today's Lightning Trainer as they are")
    for name, parameter in _todays_trainer_settings().items():
        if name not in declared:
            options: dict[str, Any] = {"type": plain_value, "default": parameter.default}
            if isinstance(parameter.default, bool):
                options.update(nargs="?", const=True)
            group.add_argument(f"--{name}", help=" ", **options)
    hidden: dict[str, Any] = {"nargs": "*", "help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    for name, advice in REFUSED_TRAINER_FLAGS.items():
        parser.add_argument(f"--{name}", action=_Refuse, advice=advice, **hidden)


# Settings of the Trainer that hold objects, which no command line can spell.
OBJECT_SETTINGS = ("callbacks", "plugins", "model_registry")


def passthrough_trainer_settings() -> list[str]:
    """Name the settings that go from the command line to the Trainer untouched."""
    declared = {flag.name for flag in TRAINER_FLAGS}
    return [name for name in _todays_trainer_settings() if name not in declared]


def _todays_trainer_settings() -> dict[str, inspect.Parameter]:
    from pytorch_lightning import Trainer  # takes seconds, and the samplers never need it

    parameters = dict(inspect.signature(Trainer.__init__).parameters)
    return {k: v for k, v in parameters.items() if k not in ("self", *OBJECT_SETTINGS)}


_SAY_GPUS = "choose devices with --gpus"
REFUSED_TRAINER_FLAGS = {
    "auto_select_gpus": _SAY_GPUS,
    "tpu_cores": _SAY_GPUS,
    "ipus": _SAY_GPUS,
    "distributed_backend": "use --strategy",
    "amp_backend": "use --precision",
    "amp_level": "use --precision",
    "auto_lr_find": "set --lr or --base_lr",
    "auto_scale_batch_size": "set --batch_size",
    "stochastic_weight_avg": "average checkpoints afterwards",
    "log_gpu_memory": "read it from nvidia-smi",
    "track_grad_norm": "leave it out",
    "terminate_on_nan": "use --max_skipped_steps 0",
    "process_position": "leave it out",
    "flush_logs_every_n_steps": "use --log_every_n_steps",
    "weights_summary": "use --enable_model_summary",
    "weights_save_path": "use --default_root_dir",
    "checkpoint_callback": "use --enable_checkpointing",
    "reload_dataloaders_every_epoch": "use --reload_dataloaders_every_n_epochs 1",
    "move_metrics_to_cpu": "leave it out",
    "multiple_trainloader_mode": "leave it out",
    "prepare_data_per_node": "leave it out",
    "callbacks": "callbacks cannot be given on a command line",
    "plugins": "plugins cannot be given on a command line",
}


class _Refuse(argparse.Action):
    """End with one line on a flag of Lightning 1.5 that has no counterpart today."""

    def __init__(self, *, advice: str, **options: Any) -> None:
        super().__init__(**options)
        self.advice = advice

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string} is no longer supported: {self.advice}")


def with_defaults(args: argparse.Namespace | Mapping[str, Any]) -> argparse.Namespace:
    """Fill in the data, model and trainer flags that an older checkpoint's settings lack.

    A stored None counts as missing where the flag's default is a value.

    Args:
        args: the settings, as parsed or as stored; left unchanged.

    Returns:
        A new namespace that holds every such flag.
    """
    known = (*DATA_FLAGS, *MUGEN_FLAGS, *VQGAN_FLAGS, *TRANSFORMER_FLAGS, *TRAINER_FLAGS)
    defaults = {flag.name: flag.fresh_default() for flag in known}
    stored = vars(args) if isinstance(args, argparse.Namespace) else args
    given = {k: v for k, v in stored.items() if v is not None or defaults.get(k) is None}
    return argparse.Namespace(**{**DERIVED_SETTINGS, **defaults, **given})
