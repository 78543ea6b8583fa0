"""The released checkpoints by name: where each comes from and where it is kept.

Settings are not repeated here: they are read from the file itself.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from tats.errors import UserError
from tats.paths import cache_dir, file_sha256

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
DRIVE_DOWNLOAD = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
ATTEMPTS = 3  # connections that give out in the middle are taken up again
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Released:
    """One released checkpoint.

    Args:
        kind: what the published README calls it; "autoregressive" and "interpolation" are the two
            transformers of hierarchical sampling.
        source: a Google Drive file id, or the address of the file.
        vqgan: for a transformer, the name of the VQGAN it was trained on.
        stft_vqgan: for a sound-conditioned transformer, the name of the VQGAN of its sound.
    """

    kind: str
    source: str
    vqgan: str = ""
    stft_vqgan: str = ""

    @property
    def stage(self) -> Literal["vqgan", "transformer"]:
        """The model it holds."""
        return "transformer" if self.vqgan else "vqgan"

    @property
    def url(self) -> str:
        """Where a person can fetch the file."""
        if self.source.startswith("https://"):
            return self.source
        return f"https://drive.google.com/file/d/{self.source}/view"


_MUGEN = "https://www.dropbox.com/s"
_MUGEN_VQGAN = f"{_MUGEN}/1fjfvapsre3jzjv/vqgan_mugen_256_41616_epoch%3D18-step%3D19999.ckpt?dl=1"
_MUGEN_BASE = (
    f"{_MUGEN}/45y44klhv04yzx8/"
    "coinrun_vqvae_lpips_gpt_16_256_41616_19999__epoch%3D59-step%3D379999-train.ckpt?dl=1"
)
# fmt: off
RELEASED: dict[str, Released] = {
    "ucf101-vqgan":      Released("VQGAN",            "15Otpyr7v6Wnyw2HfQr_cuaRsBiSMd7Rh"),
    "ucf101-base":       Released("TATS-base",        "1Nxt35mmBDuNANxHP0p8WBMWXOQ-YPkus", "ucf101-vqgan"),
    "ucf101-uncond":     Released("TATS-base-uncond", "1pQsMdO2b84m7asp_lNg44c_UE5DUC6pa", "ucf101-vqgan"),
    "sky-vqgan":         Released("VQGAN",            "1ExV0XdJKlGP4lzn0X2W9307X-DE240iW"),
    "sky-base":          Released("TATS-base",        "1mtd_mC0ZEvImlPXAdda2-4CvE-10Ljci", "sky-vqgan"),
    "sky-ar":            Released("autoregressive",   "15ay8Lrra6opBU4o__CnrHfR2Caq2G-1G", "sky-vqgan"),
    "sky-interp":        Released("interpolation",    "1WJiH3qh1_fe3PLbzKdRKR-h6iFudtAfr", "sky-vqgan"),
    "taichi-vqgan":      Released("VQGAN",            "1hcWIADkDsm916Xkxfz1YbljHU2ZAQFpQ"),
    "taichi-base":       Released("TATS-base",        "10j0p4PlkZwqQd7CmZmk9-4_ZboW4r03R", "taichi-vqgan"),
    "taichi-hier-vqgan": Released("VQGAN",            "15zujnX54wfqhhIToocvyHhdpbsxcTIv0"),
    "taichi-ar":         Released("autoregressive",   "1TrjbpGwCkFhvsiQrnl5EH76HYZoWszbY", "taichi-hier-vqgan"),
    "taichi-interp":     Released("interpolation",    "1EQnV3IqmwFsEdza7gz4PUeUqr9bINPkz", "taichi-hier-vqgan"),
    "mugen-vqgan":       Released("VQGAN",            _MUGEN_VQGAN),
    "mugen-base":        Released("TATS-base",        _MUGEN_BASE, "mugen-vqgan"),
    "drum-vqgan":        Released("Video-VQGAN",      "1ZpQkVUoGWShL2M8phTzyO6W9-uYPJ40J"),
    "drum-stft-vqgan":   Released("STFT-VQGAN",       "1CNQLfgazb7OI_c69RWUdhO56mg-9HN-o"),
    "drum-base":         Released("TATS-base",        "1eHP0eSv3s-NGAv60HbF3AZsp3SBvR70u", "drum-vqgan", "drum-stft-vqgan"),
}
# fmt: on

# Other words people have for the parts of a name, after lower-casing and joining with "-".
_SAME_WORDS = (
    (r"^ucf(-101)?(?=-)", "ucf101"),
    (r"^sky-time-?lapse(?=-)", "sky"),
    (r"^tai-?chi(-hd)?(?=-)", "taichi"),
    (r"^coinrun(?=-)", "mugen"),
    (r"^(audio-?set-?)?drums?(?=-)", "drum"),
    (r"-video-vqgan$", "-vqgan"),
    (r"-(hierarchical|hier)-(?!vqgan)", "-"),
    (r"-hierarchical-vqgan$", "-hier-vqgan"),
    (r"-(transformer|gpt)$", ""),
    (r"-tats-base", "-base"),
    (r"-base-(uncond)", r"-\1"),
    (r"-unconditional$", "-uncond"),
    (r"-interpolation$", "-interp"),
    (r"-autoregressive$", "-ar"),
)


def released_name(name: str) -> str | None:
    """Say which released checkpoint is meant, whatever way its name is written.

    Args:
        name: such as "ucf101-vqgan", "UCF-101 TATS-base" or "sky_interpolation_transformer".

    Returns:
        A key of ``RELEASED``, or None where there is none such.
    """
    plain = re.sub(r"[\s_-]+", "-", name.strip().lower())
    for pattern, word in _SAME_WORDS:
        plain = re.sub(pattern, word, plain)
    return plain if plain in RELEASED else None


def closest_names(name: str) -> str:
    """Suggest released names for one that is none: empty where nothing is close."""
    close = difflib.get_close_matches(name.lower(), RELEASED, n=3)
    return f" such as {', '.join(close)}" if close else ""


def released_path(name: str) -> Path:
    """Where the released checkpoint ``name`` is kept, whether or not it is there yet."""
    return cache_dir() / "checkpoints" / f"{name}.ckpt"


def released_file(name: str, *, stage: str | None) -> Path | None:
    """Find a released checkpoint by its name, fetching it if it is not at hand.

    Args:
        name: of a released checkpoint, however written; anything else is a path.
        stage: the model it must hold; None for either.

    Returns:
        The file's path, or None where ``name`` is not a released one.

    Raises:
        UserError: the name is of the other stage, or the file cannot be fetched.
    """
    key = None if Path(name).is_file() else released_name(name)
    if key is None:
        return None
    if stage not in (RELEASED[key].stage, None):
        fitting = ", ".join(other for other, file in RELEASED.items() if file.stage == stage)
        raise UserError(f"got {name}, a released {RELEASED[key].stage}; expected one of {fitting}")
    path = released_path(key)
    return path if path.is_file() else download(key)


def download(name: str) -> Path:
    """Fetch a released checkpoint into the cache; an interrupted one continues.

    Args:
        name: a key of ``RELEASED``.

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
            download_http(released.source, partial)
        else:
            _download_drive(released.source, partial)
    except Exception as error:  # whatever the network or the fetching library runs into
        reason = " ".join(str(error).strip().split("\n")[0].split()) or type(error).__name__
        raise UserError(f"{name} could not be fetched ({reason}); {by_hand}") from error
    with open(partial, "rb") as file:
        start = file.read(BLOCK_BYTES).lstrip()[:1]
    if start == b"<":
        partial.unlink()
        raise UserError(f"{name}: got a web page instead of the file; {by_hand}")
    os.replace(partial, path)
    log.info("%s: %d bytes, sha256 %s", path, path.stat().st_size, file_sha256(path))
    return path


def _download_drive(file_id: str, path: Path) -> None:
    """Fetch from Google Drive: by gdown, which knows its ways, or else by plain HTTP."""
    try:
        import gdown
    except ImportError:
        download_http(DRIVE_DOWNLOAD.format(file_id), path)
        return
    if gdown.download(id=file_id, output=str(path), resume=True) is None:
        raise OSError("Google Drive did not give the file")


def download_http(url: str, path: Path) -> None:
    """Fetch ``url`` into ``path``, going on where the file there ends.

    Raises:
        OSError: the server is not reached, refuses, or keeps breaking off; what has come so far
            stays in the file.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        try:
            n_missing = _fetch_rest(url, path)
            if not n_missing:
                return
            reason = f"the connection broke off {n_missing:,} bytes before the end"
        except (TimeoutError, ConnectionError) as error:
            reason = str(error) or type(error).__name__
        log.info("%s: %s", path.name, reason)
    raise OSError(f"{reason}; run again to go on")


def _fetch_rest(url: str, path: Path) -> int:
    """Add what a server still has to a file; returns how many bytes it then still owes."""
    done = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and size == str(done):  # it had all come already
            return 0
        if error.code == 416:  # the file there is not a beginning of this one
            path.unlink()
            return max(int(size), 1) if size.isdecimal() else 1
        raise
    with answer:
        if done and answer.status != 206:  # the server starts over
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        with (
            open(path, "ab" if done else "wb") as file,
            tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=path.stem) as bar,
        ):
            while block := answer.read(BLOCK_BYTES):
                done += file.write(block)
                bar.update(len(block))
    return max(total - done, 0) if total is not None else 0
