"""The released checkpoints by name: where each comes from and where it is kept.

Settings are not repeated here: they are read from the file itself.
"""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from tats.errors import UserError
from tats.pretrained import cache_dir
from tats.weight_files import file_sha256

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Released:
    """One released checkpoint.

    Args:
        stage: the model it holds.
        source: a Google Drive file id, or the address of the file.
    """

    stage: Literal["vqgan", "transformer"]
    source: str

    @property
    def url(self) -> str:
        """Where a person can fetch the file."""
        if self.source.startswith("https://"):
            return self.source
        return f"https://drive.google.com/file/d/{self.source}/view"


_MUGEN = "https://www.dropbox.com/s"
RELEASED: dict[str, Released] = {
    "ucf101-vqgan": Released("vqgan", "15Otpyr7v6Wnyw2HfQr_cuaRsBiSMd7Rh"),
    "ucf101-base": Released("transformer", "1Nxt35mmBDuNANxHP0p8WBMWXOQ-YPkus"),
    "ucf101-uncond": Released("transformer", "1pQsMdO2b84m7asp_lNg44c_UE5DUC6pa"),
    "sky-vqgan": Released("vqgan", "1ExV0XdJKlGP4lzn0X2W9307X-DE240iW"),
    "sky-base": Released("transformer", "1mtd_mC0ZEvImlPXAdda2-4CvE-10Ljci"),
    "sky-ar": Released("transformer", "15ay8Lrra6opBU4o__CnrHfR2Caq2G-1G"),
    "sky-interp": Released("transformer", "1WJiH3qh1_fe3PLbzKdRKR-h6iFudtAfr"),
    "taichi-vqgan": Released("vqgan", "1hcWIADkDsm916Xkxfz1YbljHU2ZAQFpQ"),
    "taichi-base": Released("transformer", "10j0p4PlkZwqQd7CmZmk9-4_ZboW4r03R"),
    "taichi-hier-vqgan": Released("vqgan", "15zujnX54wfqhhIToocvyHhdpbsxcTIv0"),
    "taichi-ar": Released("transformer", "1TrjbpGwCkFhvsiQrnl5EH76HYZoWszbY"),
    "taichi-interp": Released("transformer", "1EQnV3IqmwFsEdza7gz4PUeUqr9bINPkz"),
    "mugen-vqgan": Released(
        "vqgan", f"{_MUGEN}/1fjfvapsre3jzjv/vqgan_mugen_256_41616_epoch%3D18-step%3D19999.ckpt?dl=1"
    ),
    "mugen-base": Released(
        "transformer",
        f"{_MUGEN}/45y44klhv04yzx8/"
        "coinrun_vqvae_lpips_gpt_16_256_41616_19999__epoch%3D59-step%3D379999-train.ckpt?dl=1",
    ),
    "drum-vqgan": Released("vqgan", "1ZpQkVUoGWShL2M8phTzyO6W9-uYPJ40J"),
    "drum-stft-vqgan": Released("vqgan", "1CNQLfgazb7OI_c69RWUdhO56mg-9HN-o"),
    "drum-base": Released("transformer", "1eHP0eSv3s-NGAv60HbF3AZsp3SBvR70u"),
}


def released_path(name: str) -> Path:
    """Where the released checkpoint ``name`` is kept, whether or not it is there yet."""
    return cache_dir() / "checkpoints" / f"{name}.ckpt"


def released_file(name: str, *, stage: str) -> Path | None:
    """Find a released checkpoint by its name, fetching it if it is not at hand.

    Args:
        name: a name of ``RELEASED``; anything else is a path.
        stage: the model it must hold.

    Returns:
        The file's path, or None where ``name`` is not a released one.

    Raises:
        UserError: the name is of the other stage, or the file cannot be fetched.
    """
    if name not in RELEASED or Path(name).is_file():
        return None
    if RELEASED[name].stage != stage:
        fitting = ", ".join(key for key, file in RELEASED.items() if file.stage == stage)
        raise UserError(f"got {name}, a released {RELEASED[name].stage}; expected one of {fitting}")
    path = released_path(name)
    return path if path.is_file() else download(name)


def download(name: str) -> Path:
    """Fetch a released checkpoint into the cache; an interrupted one continues.

    Returns:
        The file's path; its size and sha256 are logged.

    Raises:
        UserError: it could not be fetched; says what to fetch by hand and where to put it.
    """
    path, released = released_path(name), RELEASED[name]
    by_hand = f"fetch {released.url} by hand and save it as {path}"
    partial = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if released.source.startswith("https://"):
            _download_http(released.source, partial)
        else:
            _download_drive(released.source, partial)
    except Exception as error:  # whatever the network or the fetching library runs into
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{name} could not be fetched ({reason}); {by_hand}") from error
    with open(partial, "rb") as file:
        start = file.read(BLOCK_BYTES).lstrip()[:1]
    if start == b"<":
        partial.unlink()
        raise UserError(f"{name}: got a web page instead of the file; {by_hand}")
    os.replace(partial, path)
    log.warning("%s: %d bytes, sha256 %s", path, path.stat().st_size, file_sha256(path))
    return path


def _download_drive(file_id: str, path: Path) -> None:
    try:
        import gdown
    except ImportError as error:
        raise UserError("Google Drive needs gdown: pip install 'tats[download]'") from error
    if gdown.download(id=file_id, output=str(path), resume=True) is None:
        raise UserError("Google Drive did not give the file")


def _download_http(url: str, path: Path) -> None:
    done = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        if done and answer.status != 206:  # the server starts over
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with (
            open(path, "ab" if done else "wb") as file,
            tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=path.stem) as bar,
        ):
            while block := answer.read(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
