"""What the five sampling scripts share: from parsed flags to a model, a plan and a run on disk."""

from __future__ import annotations

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tats.errors import UserError
from tats.evaluation.fvd import FvdMeter
from tats.flags import check_may_write
from tats.pipeline import TATS
from tats.sampling.passes import VideoSampler
from tats.sampling.run_files import Outputs
from tats.sampling.runs import sample_range, write_run
from tats.sampling.samplers import Words, frame_shape

log = logging.getLogger(__name__)

_SHARED_WORDS = {
    "label": "--class_label",
    "text": "--text",
    "audio": "--audio",
    "frames": "--sample_length",
    "context": "--temporal_sample_pos",
}
WORDS = Words(gpt="--gpt_ckpt", **_SHARED_WORDS)
HIERARCHICAL_WORDS = Words(gpt="--ckpt1", interpolation="--ckpt2", **_SHARED_WORDS)


def load(args: Namespace, *, words: Words = WORDS, **parts: str) -> TATS:
    """Load the checkpoints that flags name, where and as ``--device``, … say.

    Args:
        args: a sampler's flags.
        words: what messages call things.
        parts: the checkpoints, as for ``TATS.from_pretrained``.
    """
    check_may_write(args.save, "save")
    return TATS.from_pretrained(
        **parts,
        device=args.device,
        precision=args.precision,
        weights=args.weights,
        words=words,
    )


def wishes(args: Namespace) -> dict[str, Any]:
    """The flags that all samplers share, as arguments of ``TATS.sampler``."""
    return {
        "top_k": args.top_k,
        "top_p": args.top_p,
        "temperature": args.temperature,
        "seed": args.seed,
        "prime": getattr(args, "prime", None),
        "prime_frames": getattr(args, "prime_frames", 0) or None,
    }


def chosen_classes(args: Namespace, tats: TATS) -> list[int] | None:
    """Read ``--class_cond`` and ``--class_label``: classes in turn, None for all of the model's.

    Raises:
        UserError: the model takes no class.
    """
    if tats.condition in ("text", "stft"):
        raise UserError(
            f"{tats.words.gpt} got a model conditioned on {tats.condition}; expected one "
            "conditioned on class labels or on nothing"
        )
    if tats.condition is None and (args.class_cond or args.class_label):
        flag = "--class_cond" if args.class_cond else "--class_label"
        raise UserError(
            f"{flag} got an unconditional {tats.words.gpt}; expected a model trained with class "
            "labels: leave the flag out"
        )
    if tats.condition == "label" and not (args.class_cond or args.class_label):
        log.warning(
            "%s is class-conditional: every class is sampled equally often, as with --class_cond",
            tats.words.gpt,
        )
    return args.class_label


def check_resolution(args: Namespace, tats: TATS) -> None:
    """Check that ``--sample_resolution``, where it is given, is the model's.

    Raises:
        UserError: it is not.
    """
    height, width = frame_shape(tats.model)
    asked = args.sample_resolution
    if asked is not None and (height, width) != (asked, asked):
        raise UserError(
            f"--sample_resolution got {asked}; expected {height}, the model's latent rows and "
            f"columns are {height}x{width}"
        )


def sample_and_print(
    sampler: VideoSampler,
    args: Namespace,
    argv: Sequence[str] | None,
    outputs: Outputs,
    *,
    n_sample: int | None = None,
    meter: FvdMeter | None = None,
) -> None:
    """Sample what is left of a run, write it, and print one line of JSON about it.

    Args:
        sampler: makes the clips.
        args: the sampler's flags.
        argv: the command line; None for this process's.
        outputs: what to write beside the clips.
        n_sample: clips; None for ``--n_sample``.
        meter: scores the clips.
    """
    result = write_run(
        sampler,
        args.save,
        name=f"{args.dataset}_{sampler.kind}_topp{args.top_p:g}_topk{args.top_k}_run{args.run}",
        samples=sample_range(args.n_sample if n_sample is None else n_sample, args.run),
        batch_size=args.batch_size,
        outputs=replace(
            outputs,
            codes=args.save_codes,
            frame_rate=sampler.given.frame_rate,
            present=sampler.given.present,
        ),
        overwrite=args.overwrite,
        meter=meter,
        record={"argv": list(sys.argv[1:] if argv is None else argv), "flags": vars(args)},
    )
    if result is not None:
        print(json.dumps(result))
