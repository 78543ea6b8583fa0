"""MUGEN clips: recorded games rendered on the fly, with captions."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tats.data.clips import Batch, ClipDataset, check_enough_videos
from tats.data.decoding import DecodeError
from tats.data.mugen import Game, Renderer, describe
from tats.data.mugen.files import ClipFile, find_clips, read_annotations
from tats.data.mugen.labels import figure_labels
from tats.data.mugen.scene import LAYERS, Layer
from tats.errors import UserError
from tats.randomness import draw
from tats.text import tokenize
from tats.video_io import to_float

log = logging.getLogger(__name__)

Content = Literal["frames", "map", "mixed", "mixed_agent", "none"]

AGENT_NAME = "Mugen"
_LEVEL: tuple[Layer, ...] = ("background", "cells")
_AGENT: tuple[Layer, ...] = ("agent", "shield")


@dataclass(frozen=True)
class MapStyle:
    """How a semantic map looks.

    Args:
        max_label: label set: 18, 21 or 22.
        onehot: one channel a label instead of repeated grey values.
        agent_box: agent and shield as boxes.
        monster_boxes: monsters as boxes.
    """

    max_label: int = 18
    onehot: bool = False
    agent_box: bool = False
    monster_boxes: bool = False


@dataclass(frozen=True)
class CaptionStyle:
    """Where captions come from and how they are tokenized.

    Args:
        n_tokens: length of a caption.
        truncate: cut longer captions.
        annotations: texts people wrote, by clip name, beside those of the released index.
        manual_only: leave out clips without a text that people wrote.
    """

    n_tokens: int = 256
    truncate: bool = True
    annotations: dict[str, tuple[str, ...]] | None = None
    manual_only: bool = False


class MugenDataset(ClipDataset):
    """Windows of recorded games as frames, semantic maps and captions.

    Args:
        clips: the recorded clips.
        sequence_length: frames of a window, not counting those that are passed over.
        resolution: side of the clips in pixels.
        sample_every_n_frames: keep every n-th frame.
        content: what ``video`` holds: rendered frames, the map, the level's frames beside a map of
            the figures (``mixed``) or of the agent alone (``mixed_agent``), or no video at all.
        with_map: give the map as ``video_smap`` too.
        with_text: give the tokenized caption as ``text``.
        image_channels: how often a map that is not one-hot repeats its grey values.
        map_style: look of the maps.
        caption_style: source of the captions.
        fixed_start: windows start at the game's first frame instead of at a random one.
        random_agent: draw the agent in a random colour, by which the caption then calls it.
        assets: root of MUGEN's sprite files; None means the drawn ones.
        seed: of the random choices.

    Raises:
        UserError: no clip is left, or a setting is out of range.

    Source: docs/DATASETS.md, "What a clip is"; D14, D23, D25.
    """

    def __init__(
        self,
        *,
        clips: list[ClipFile],
        sequence_length: int,
        resolution: int,
        sample_every_n_frames: int = 1,
        content: Content = "frames",
        with_map: bool = False,
        with_text: bool = False,
        image_channels: int = 3,
        map_style: MapStyle | None = None,
        caption_style: CaptionStyle | None = None,
        fixed_start: bool = False,
        random_agent: bool = False,
        assets: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        self.clips = clips
        self.sequence_length = sequence_length
        self.sample_every_n_frames = sample_every_n_frames
        self.content = content
        self.with_map = with_map
        self.with_text = with_text
        self.image_channels = image_channels
        self.map_style = map_style or MapStyle()
        self.caption_style = caption_style or CaptionStyle()
        self.fixed_start = fixed_start
        self.random_agent = random_agent
        self.renderer = Renderer(resolution, assets, self.map_style.max_label)
        if content == "mixed_agent" and self.map_style.onehot:
            figure_labels(self.map_style.max_label, agent_only=True)
        self.min_frames = (sequence_length - 1) * sample_every_n_frames + 1

    def __len__(self) -> int:
        return len(self.clips)

    def clip(self, index: int, generator: torch.Generator) -> Batch:
        clip = self.clips[index]
        try:
            game = Game.load(clip.path)
        except UserError as error:
            raise DecodeError(str(error)) from error
        n_starts = game.n_frames - self.min_frames + 1
        if n_starts < 1:
            raise DecodeError(
                f"game file {clip.path} has {game.n_frames} frames; expected at least "
                f"{self.min_frames}"
            )
        start = 0 if self.fixed_start else draw(n_starts, generator)
        if self.random_agent:
            themes = self.renderer.agent_themes()
            game = replace(game, agent_theme=themes[draw(len(themes), generator)])
        try:
            item = self._pictures(game, start)
        except UserError as error:
            raise UserError(f"{error} (while rendering {clip.path})") from error
        if self.with_text:
            item["text"] = self._tokens(clip, game, start, generator)
        return item

    def _pictures(self, game: Game, start: int) -> Batch:
        shown = range(start, start + self.min_frames, self.sample_every_n_frames)
        item: Batch = {}
        if self.content == "frames":
            item["video"] = self._frames(game, shown)
        elif self.content == "map":
            item["video"] = self._maps(game, shown)
        elif self.content != "none":
            item["video"] = self._mixed(game, shown)
        if self.with_map:
            item["video_smap"] = self._maps(game, shown)
        return item

    def _frames(self, game: Game, shown: range) -> Tensor:
        frames = [self.renderer.frame(game, i) for i in shown]
        return to_float(np.stack(frames))  # (3, T, H, W)

    def _labels(self, game: Game, shown: range, layers: tuple[Layer, ...] = LAYERS) -> Tensor:
        style = self.map_style
        maps = [
            self.renderer.semantic_map(
                game,
                i,
                agent_box=style.agent_box,
                monster_boxes=style.monster_boxes,
                layers=layers,
            )
            for i in shown
        ]
        return torch.from_numpy(np.stack(maps))  # (T, H, W)

    def _maps(self, game: Game, shown: range) -> Tensor:
        labels = self._labels(game, shown)
        if self.map_style.onehot:
            channels = torch.arange(self.map_style.max_label + 1)
            return _onehot(labels, channels)
        grey = labels.float() / self.map_style.max_label - 0.5
        return grey.expand(self.image_channels, *grey.shape).contiguous()  # (C, T, H, W)

    def _mixed(self, game: Game, shown: range) -> Tensor:
        agent_only = self.content == "mixed_agent"
        below: tuple[Layer, ...] = (*_LEVEL, "monsters") if agent_only else _LEVEL
        above: tuple[Layer, ...] = _AGENT if agent_only else ("monsters", *_AGENT)
        frames = [self.renderer.frame(game, i, layers=below) for i in shown]
        labels = self._labels(game, shown, above)
        max_label = self.map_style.max_label
        if self.map_style.onehot:
            figures = _onehot(labels, torch.tensor(figure_labels(max_label, agent_only))) - 0.5
        else:
            figures = (labels.float() / max_label - 0.5)[None]
        return torch.cat([to_float(np.stack(frames)), figures])  # (3 + C, T, H, W)

    def _tokens(self, clip: ClipFile, game: Game, start: int, generator: torch.Generator) -> Tensor:
        text = self._caption(clip, game, start, generator)
        style = self.caption_style
        try:
            return tokenize(text, style.n_tokens, truncate=style.truncate)[0]
        except UserError:
            raise
        except ValueError as error:
            raise UserError(
                f"--text_seq_len {style.n_tokens} is too short for a caption of {clip.path}: "
                f"{error}"
            ) from error

    def _caption(self, clip: ClipFile, game: Game, start: int, generator: torch.Generator) -> str:
        style = self.caption_style
        texts = [*(style.annotations or {}).get(clip.path.stem, ()), *clip.manual_texts]
        if not style.manual_only:
            texts += clip.auto_texts
        if texts:
            return texts[draw(len(texts), generator)]
        name = game.agent_theme if self.random_agent else AGENT_NAME
        end = start + self.sequence_length * self.sample_every_n_frames
        return describe(game, start, end, name=name)


def check_mugen_channels(args: Namespace) -> None:
    """Check that a VQGAN has as many channels as MUGEN's clips have with these flags.

    Args:
        args: data flags that name MUGEN.

    Raises:
        UserError: it has not.
    """
    mixed = args.get_mixed_rgb_smap or args.get_mixed_rgb_smap_mugen_only
    if args.smap_only and not args.use_onehot_smap:
        return  # grey maps come in any number of channels
    n_channels = 3
    if mixed and args.use_onehot_smap:
        n_channels += len(figure_labels(args.max_label, args.get_mixed_rgb_smap_mugen_only))
    elif mixed:
        n_channels += 1
    elif args.smap_only:
        n_channels = args.max_label + 1
    if args.image_channels != n_channels:
        raise UserError(
            f"--image_channels got {args.image_channels}; expected {n_channels}, what MUGEN clips "
            "have with the given semantic-map flags"
        )


def mugen_dataset(args: Namespace, root: Path, *, train: bool) -> MugenDataset:
    """Build the dataset that the command line describes.

    Args:
        args: complete data flags.
        root: ``--data_path``.
        train: the training split.

    Returns:
        The dataset.

    Raises:
        UserError: flags exclude each other, a file is missing or malformed, or no clip is left.
    """
    _refuse_unused(args)
    clips = find_clips(root, train=train, needs_index=args.coinrun_v2_dataloader)
    annotations = read_annotations(Path(args.text_path).expanduser()) if args.text_path else None
    if args.use_manual_annotation_only:
        clips = _annotated(clips, annotations or {})
    truncate = True if args.truncate_captions is None else args.truncate_captions
    dataset = MugenDataset(
        clips=clips,
        sequence_length=args.sequence_length,
        resolution=args.resolution,
        sample_every_n_frames=args.sample_every_n_frames,
        content=_content(args),
        with_map=bool(args.smap_cond),
        with_text=args.text_cond or args.get_text_only,
        image_channels=args.image_channels,
        map_style=MapStyle(
            max_label=args.max_label,
            onehot=args.use_onehot_smap,
            agent_box=args.bbox_smap_for_agent,
            monster_boxes=args.bbox_smap_for_monsters,
        ),
        caption_style=CaptionStyle(
            n_tokens=args.text_seq_len,
            truncate=truncate,
            annotations=annotations,
            manual_only=args.use_manual_annotation_only,
        ),
        fixed_start=args.fixed_start_idx,
        random_agent=args.random_alien,
        assets=Path(args.coinrun_assets).expanduser() if args.coinrun_assets else None,
        seed=args.seed,
    )
    dataset.clips = _long_enough(root, clips, dataset.min_frames, scan=args.check_game_length)
    return dataset


def _refuse_unused(args: Namespace) -> None:
    reasons = {
        "false_text_prob": "wrong captions serve a contrastive loss, which no model here has",
        "get_alien_data": "no model here reads the agent's picture and name",
    }
    for name, reason in reasons.items():
        if getattr(args, name):
            raise UserError(f"--{name} is not supported with MUGEN clips: {reason}; leave it out")


def _content(args: Namespace) -> Content:
    wanted: dict[Content, bool] = {
        "none": args.get_text_only,
        "map": args.smap_only,
        "mixed": args.get_mixed_rgb_smap,
        "mixed_agent": args.get_mixed_rgb_smap_mugen_only,
    }
    chosen = [content for content, is_wanted in wanted.items() if is_wanted]
    if len(chosen) > 1 or (chosen == ["none"] and args.smap_cond):
        raise UserError(
            "--smap_only, --get_mixed_rgb_smap, --get_mixed_rgb_smap_mugen_only and "
            "--get_text_only exclude each other, and --get_text_only excludes --smap_cond; "
            "choose one"
        )
    return chosen[0] if chosen else "frames"


def _annotated(clips: list[ClipFile], annotations: dict[str, tuple[str, ...]]) -> list[ClipFile]:
    kept = [clip for clip in clips if clip.manual_texts or annotations.get(clip.path.stem)]
    if not kept:
        raise UserError(
            f"--use_manual_annotation_only: none of the {len(clips)} clips has a manual "
            "annotation; expected some in the released index or in the file of --text_path"
        )
    return kept


def _long_enough(
    root: Path, clips: list[ClipFile], min_frames: int, *, scan: bool
) -> list[ClipFile]:
    """Leave out the clips that are known to be too short; ``scan`` reads those that do not say."""
    n_unreadable = 0
    kept = []
    for clip in clips:
        n_frames = clip.n_frames
        if n_frames is None and scan:
            try:
                n_frames = Game.load(clip.path).n_frames
            except UserError as error:
                n_unreadable += 1
                log.warning("clip left out: %s", error)
                continue
        if n_frames is None or n_frames >= min_frames:
            kept.append(clip)
    check_enough_videos(
        root,
        n_videos=len(clips),
        n_unreadable=n_unreadable,
        n_short=len(clips) - len(kept) - n_unreadable,
        min_frames=min_frames,
    )
    return kept


def _onehot(labels: Tensor, channels: Tensor) -> Tensor:
    """One channel, 0 or 1, for each of some labels: (T, H, W) → (C, T, H, W)."""
    return (labels[None] == channels[:, None, None, None]).float()
