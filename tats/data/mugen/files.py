"""Finds MUGEN's clips on disk: folders of game files, or the released index with annotations."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path, PurePath

from tats.data.mugen.fields import Fields
from tats.errors import UserError

log = logging.getLogger(__name__)

_INDEX_FOLDERS = (".", "release", "coinrun_dataset_jsons/release")  # as the released archive has it
_TEST_SPLITS = ("test", "val")
_DATA_FOLDERS_ABOVE = 3  # the index lies at most this deep below the folder of the games


@dataclass(frozen=True, slots=True)
class ClipFile:
    """One recorded clip: its game file and what people or the recorder wrote about it."""

    path: Path
    manual_texts: tuple[str, ...] = ()
    auto_texts: tuple[str, ...] = ()
    n_frames: int | None = None  # where the index says it


def find_clips(root: Path, *, train: bool, needs_index: bool = False) -> list[ClipFile]:
    """List the clips of a split in either published layout.

    Args:
        root: folder with ``{train,test}/*.json`` game files, or with the released
            ``{train,val,test}.json`` (also under ``coinrun_dataset_jsons/release/``).
        train: the training split; else the test split (``val`` where there is no ``test``).
        needs_index: accept the released layout only.

    Returns:
        Clips in a fixed order, at least one.

    Raises:
        UserError: there is neither, or the index is malformed.
    """
    splits = ("train",) if train else _TEST_SPLITS
    indices = [root / folder / f"{split}.json" for split in splits for folder in _INDEX_FOLDERS]
    for index in indices:
        if index.is_file():
            return _read_index(index)
    if needs_index:
        raise UserError(
            f"--coinrun_v2_dataloader expects the released index {splits[0]}.json in "
            f"--data_path {root}, which has none; leave the flag out for folders of game files"
        )
    for split in splits:
        files = sorted((root / split).glob("*.json"))
        if files:
            return [ClipFile(file) for file in files]
    raise UserError(
        f"--data_path {root} has no clips; expected game files {splits[0]}/*.json or the released "
        f"index {splits[0]}.json"
    )


def read_annotations(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a file of manual annotations.

    Args:
        path: JSON object from a clip's name (its game file's name without ``.json``) to its
            annotation or a list of them.

    Returns:
        Annotations by clip name.

    Raises:
        UserError: the file cannot be read or a value is of another type.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--text_path {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--text_path {path} is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"--text_path {path} holds no object; expected clip names and their texts")
    annotations = {}
    for name, texts in record.items():
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"--text_path {path}: {name} is {str(texts)[:40]}; expected a text or a list of "
                "texts"
            )
        annotations[name] = tuple(texts)
    return annotations


def _read_index(path: Path) -> list[ClipFile]:
    index = Fields.load(path, kind="index file")
    entries = index.objects("data")
    if not entries:
        raise index.wrong("data", "at least one clip")
    first = entries[0].object("video").text("json_file")
    folder = _data_folder(path, index, first)
    return [_read_entry(entry, folder) for entry in entries]


def _read_entry(entry: Fields, folder: Path) -> ClipFile:
    video = entry.object("video")
    texts: dict[str, list[str]] = {"manual": [], "auto": []}
    for annotation in entry.objects("annotations"):
        kind = annotation.text("type")
        if kind not in texts:
            raise annotation.wrong("type", "manual or auto")
        texts[kind].append(annotation.text("text"))
    return ClipFile(
        path=folder / video.text("json_file"),
        manual_texts=tuple(texts["manual"]),
        auto_texts=tuple(texts["auto"]),
        n_frames=video.integer("num_frames", minimum=1) if "num_frames" in video else None,
    )


def _data_folder(path: Path, index: Fields, first_file: str) -> Path:
    """Find the folder the index's paths start from; the one it names is of another machine."""
    named = PurePath(index.object("metadata").text("data_folder"))
    above = [path.parent, *path.parent.parents][: _DATA_FOLDERS_ABOVE + 1]
    candidates = [Path(named), *(folder / named for folder in above)]
    candidates += [folder / named.name for folder in above] + above
    for candidate in candidates:
        if (candidate / first_file).is_file():
            return candidate
    raise UserError(
        f"index file {path}: data[0].video.json_file {first_file} is neither in "
        f"metadata.data_folder {named} nor beside the index; set metadata.data_folder to the "
        "folder of the games"
    )
