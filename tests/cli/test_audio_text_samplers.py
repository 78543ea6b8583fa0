"""The samplers conditioned on sound and on text, end to end with tiny models."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from load_script import load_script
from small_sound import drum_paths, learn_codes, tone, write_drums, write_tone_video
from tiny import attend_sharply, save_checkpoint, tiny_transformer, tiny_vqgan

from tats import TATS
from tats.data.decoding import read_video
from tats.data.sound import SAMPLE_RATE, read_sound, spectrogram
from tats.data.stft import StftDataset
from tats.sampling.sound_to_video import HeldOutClips
from tats.sampling.text_to_video import caption_tokens
from tats.text import default_tokenizer, find_vocabulary

AUDIO = "sample_vqgan_transformer_audio_cond.py"
TEXT = "sample_vqgan_transformer_text_cond.py"


def has_vocabulary() -> bool:
    try:
        find_vocabulary()
    except ValueError:
        return False
    return True


needs_vocabulary = pytest.mark.skipif(not has_vocabulary(), reason="set-up had no network")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of 16x16x16 clips with 4x4x4 latents; sounds are 4x2x2 codes."""
    torch.manual_seed(0)
    folder, vqgan = tmp_path_factory.mktemp("models"), tiny_vqgan()
    sound = tiny_vqgan(image_channels=1, n_codes=16, downsample=(4, 32, 8), stft_data=True)
    short = tiny_vqgan(
        image_channels=1, n_codes=16, downsample=(4, 32, 8), stft_data=True, sequence_length=8
    )
    learn_codes(sound)
    stft_flags = {"cond_stage_key": "stft", "block_size": 80, "stft_data": True}
    made = {
        "stft": tiny_transformer(vqgan, cond_stage_model=sound, **stft_flags),
        "text": tiny_transformer(vqgan, cond_stage_key="text", text_cond=True, block_size=320),
        "uncond": tiny_transformer(vqgan, unconditional=True),
        "vqgan": vqgan,
        "sound": sound,
        "short": short,
    }
    for name in ("stft", "text"):
        attend_sharply(made[name].transformer)
    return {name: save_checkpoint(model, folder / f"{name}.ckpt") for name, model in made.items()}


@pytest.fixture(scope="module")
def drums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_drums(tmp_path_factory.mktemp("drums"))
    rng = np.random.default_rng(0)
    for number in range(2):  # sounds that tell the clips apart
        stft, _ = drum_paths(root, "folders", "test", f"clip{number}")
        stft.write_bytes(rng.random((24, 45, 17)).dumps())
    return root


def audio_command(models: dict[str, Path], save: Path, *more: Any, kind: str = "stft") -> list[str]:
    flags = ["--gpt_ckpt", models[kind], "--vqgan_ckpt", models["vqgan"], "--save", save]
    return [*map(str, flags), "--stft_vqgan_ckpt", str(models["sound"]), *map(str, more)]


def text_command(models: dict[str, Path], save: Path, *more: Any, kind: str = "text") -> list[str]:
    flags = ["--gpt_ckpt", models[kind], "--vqgan_ckpt", models["vqgan"], "--save", save]
    return [*map(str, flags), *map(str, more)]


def run(script: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    load_script(script).main(arguments)
    return json.loads(capsys.readouterr().out)


def refused(script: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        load_script(script).main(arguments)
    printed = capsys.readouterr()
    assert exit_.value.code == 2 and printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if "error:" in line]
    return line


# --- sound ------------------------------------------------------------------------------------


def test_samples_stand_beside_the_real_clips_with_their_sound(models, drums, tmp_path, capsys):
    arguments = audio_command(models, tmp_path, "--data_path", drums / "stft", "--n_sample", 3)
    result = run(AUDIO, arguments, capsys)
    clips = np.load(result["clips"])
    assert clips.shape == (3, 16, 16, 16, 3) and clips.dtype == np.uint8
    folder = Path(result["clips"]).parent
    assert folder.name.startswith("drum_audio_topp0.92_topk2048_run0-")
    files = sorted((folder / "videos").iterdir())
    assert [file.name for file in files] == [f"sample_0000{i}.mp4" for i in range(3)]

    frames = read_video(files[1])
    assert frames.shape == (16, 18, 36, 3)  # two clips, padded by a pixel and to an even size
    assert np.abs(frames[:, 1:15, 1:15].astype(int) - clips[1][:, 1:15, 1:15]).mean() < 30
    record = json.loads((folder / "run.json").read_text())
    assert record["samples"][1] == {"sample": 1, "sound": "clip1.mp4", "turn": 0}
    real = frames[:, 4:14, 22:32].mean(axis=(1, 2, 3)) / 20
    start = round(real[0])
    assert np.allclose(real, [(start + t) % 12 for t in range(16)], atol=0.5)
    heard = read_sound(files[1]).samples[: 16 * 735]
    assert abs(np.abs(np.fft.rfft(heard)).argmax() * SAMPLE_RATE / len(heard) - 880) < 10
    assert len(record["checkpoints"]) == 3


def test_as_many_clips_are_made_as_there_are_sounds(models, drums, tmp_path, capsys):
    write_tone_video(tmp_path / "tone.mp4", 440.0)
    from_tests = audio_command(models, tmp_path / "a", "--data_path", drums)
    from_file = audio_command(models, tmp_path / "b", "--audio", tmp_path / "tone.mp4")
    n_windows = len(spectrogram(read_sound(tmp_path / "tone.mp4").samples)) // 16
    assert run(AUDIO, from_tests, capsys)["n_clips"] == 2
    assert run(AUDIO, from_file, capsys)["n_clips"] == n_windows > 0


def test_another_sound_gives_another_sample_with_the_same_seed(models, drums, tmp_path, capsys):
    write_tone_video(tmp_path / "low.mp4", 300.0)
    write_tone_video(tmp_path / "high.mp4", 9000.0)

    def clip(name: str) -> np.ndarray:
        arguments = audio_command(
            models, tmp_path / "out", "--audio", tmp_path / name, "--n_sample", 1
        )
        return np.load(run(AUDIO, arguments, capsys)["clips"])

    assert np.array_equal(clip("low.mp4"), clip("low.mp4"))
    assert not np.array_equal(clip("low.mp4"), clip("high.mp4"))


def test_a_sample_is_the_same_in_any_batch_and_run(models, drums, tmp_path, capsys):
    def clips(*flags: Any) -> np.ndarray:
        arguments = audio_command(models, tmp_path, "--data_path", drums, *flags)
        return np.load(run(AUDIO, arguments, capsys)["clips"])

    at_once = clips("--n_sample", 4)
    assert np.array_equal(at_once, clips("--n_sample", 4, "--batch_size", 1))
    assert np.array_equal(at_once[2:], clips("--n_sample", 2, "--run", 1))


def test_a_sound_file_alone_is_enough_and_its_windows_follow_each_other(models, tmp_path, capsys):
    samples = (tone(440.0, 40).samples * 32767).astype(np.int16)
    with wave.open(str(tmp_path / "drum.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    flags = ["--audio", tmp_path / "drum.wav", "--n_sample", 3]
    result = run(AUDIO, audio_command(models, tmp_path / "out", *flags), capsys)
    record = json.loads((Path(result["clips"]).parent / "run.json").read_text())
    assert [sample["first_frame"] for sample in record["samples"]] == [0, 16, 0]
    video = Path(result["videos"]) / "sample_00000.mp4"
    assert read_video(video).shape == (16, 16, 16, 3)
    assert np.abs(read_sound(video).samples).max() > 0.3


def test_primed_samples_begin_as_the_real_clip_does(models, drums, tmp_path, capsys):
    tats = TATS.from_pretrained(
        gpt=models["stft"], vqgan=models["vqgan"], stft_vqgan=models["sound"]
    )
    source = HeldOutClips(drums, n_frames=16, resolution=16, seed=0)

    def sampled(n_prime: int | None) -> torch.Tensor:
        sampler = tats.sampler(audio=source, prime_frames=n_prime)
        canvas = sampler.new_canvas([0])
        list(sampler.stream([0], canvas))
        return canvas.view(4, 4, 4)

    def encoded(n_given: int) -> torch.Tensor:
        """Codes of the first frames, the last of them repeated to fill a latent frame."""
        video = source.window(0).video[:, :n_given]
        rest = video[:, -1:].expand(-1, -n_given % 4, -1, -1)
        return tats.vqgan.encode(torch.cat([video, rest], dim=1)[None])[0]

    assert torch.equal(sampled(15)[:3], encoded(15)[:3])
    assert torch.equal(sampled(9)[:2], encoded(9)[:2])
    assert not torch.equal(sampled(None)[:3], encoded(15)[:3])
    flags = ["--data_path", drums, "--n_sample", 2, "--prime_frames", 15]
    clips = np.load(run(AUDIO, audio_command(models, tmp_path, *flags), capsys)["clips"])
    assert clips.shape == (2, 16, 16, 16, 3)


def test_no_test_clip_is_read_for_its_name(drums, monkeypatch):
    source = HeldOutClips(drums, n_frames=16, resolution=16, seed=0)
    monkeypatch.setattr(StftDataset, "clip", lambda *_: pytest.fail("a clip was read"))
    assert [source.describe(i)["sound"] for i in range(3)] == [
        "clip0.mp4",
        "clip1.mp4",
        "clip0.mp4",
    ]


def test_a_data_set_is_known_by_its_contents_not_by_where_it_lies(drums, tmp_path):
    def identity(root: Path) -> dict[str, Any]:
        return HeldOutClips(root, n_frames=16, resolution=16, seed=0).identity

    copy = Path(shutil.copytree(drums, tmp_path / "copy"))
    assert identity(copy) == identity(drums)
    stft, _ = drum_paths(copy, "folders", "test", "clip1")
    stft.write_bytes(np.random.default_rng(1).random((24, 45, 17)).dumps())  # of the same size
    assert identity(copy) != identity(drums)


def test_a_window_is_read_once_for_all_that_is_made_of_it(models, drums, monkeypatch):
    tats = TATS.from_pretrained(
        gpt=models["stft"], vqgan=models["vqgan"], stft_vqgan=models["sound"]
    )
    reads, clip = [], StftDataset.clip
    monkeypatch.setattr(StftDataset, "clip", lambda *a: (reads.append(a[1]), clip(*a))[1])
    source = HeldOutClips(drums, n_frames=16, resolution=16, seed=0)
    sampler = tats.sampler(audio=source, prime_frames=8)
    frames = torch.cat(list(sampler.stream([0, 1], sampler.new_canvas([0, 1]))), dim=1)
    sampler.given.present(0, frames[0].numpy())
    assert reads == [0, 1]


@pytest.mark.parametrize(
    ("flags", "kind", "said"),
    [
        ("--data_path {drums}/nowhere", "stft", "--data_path got"),
        ("--data_path {drums}/video", "stft", "has no spectrograms"),
        ("--data_path {drums}", "uncond", "conditioned on nothing; expected one trained with"),
        ("--audio {tmp}/silent.mp4", "stft", "no sound; expected a file with sound"),
        ("--audio {tmp}/nothing.wav", "stft", "--audio"),
        ("--audio {tmp}/short.mp4", "stft", "expected at least 0.53 s"),
        ("--audio {tmp}/sound.wav --prime_frames 8", "stft", "--prime_frames needs real frames"),
        ("--data_path {drums} --prime_frames 3", "stft", "--prime_frames got 3; expected 4 to 15"),
        ("--data_path {drums} --prime_frames 16", "stft", "--prime_frames got 16"),
        ("--data_path {drums} --n_sample 0", "stft", "--n_sample got 0"),
        ("--data_path {drums} --stft_vqgan_ckpt {short}", "stft", "got a model of 8 frames"),
    ],
)
def test_mistakes_with_sound_are_told_in_one_line_and_leave_nothing(
    flags, kind, said, models, drums, tmp_path, capsys
):
    write_tone_video(tmp_path / "silent.mp4", None)
    write_tone_video(tmp_path / "short.mp4", 440.0, n_frames=8)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(bytes(2 * SAMPLE_RATE))
    words = flags.format(drums=drums, tmp=tmp_path, short=models["short"]).split()
    arguments = audio_command(models, tmp_path / "out", "--n_sample", "1", *words, kind=kind)
    assert said in refused(AUDIO, arguments, capsys)
    assert not (tmp_path / "out").exists()


def test_a_test_video_without_sound_is_named(models, tmp_path, capsys):
    drums = write_drums(tmp_path / "drums", n_clips=1)
    write_tone_video(drum_paths(drums, "folders", "test", "clip0")[1], None)
    arguments = audio_command(models, tmp_path / "out", "--data_path", drums, "--n_sample", 1)
    line = refused(AUDIO, arguments, capsys)
    assert "clip0.mp4" in line and "expected a video with sound" in line


# --- text -------------------------------------------------------------------------------------


@needs_vocabulary
def test_every_caption_gets_its_samples(models, tmp_path, capsys):
    (tmp_path / "captions.txt").write_text("Mugen jumps up\n\n Mugen walks to the left \n")
    flags = ["--text_file", tmp_path / "captions.txt", "--n_sample", 2]
    result = run(TEXT, text_command(models, tmp_path / "out", *flags), capsys)
    clips = np.load(result["clips"])
    assert clips.shape == (4, 16, 16, 16, 3)
    files = sorted(Path(result["videos"]).iterdir())
    assert len(files) == 4 and read_video(files[0]).shape == (16, 16, 16, 3)
    record = json.loads((Path(result["clips"]).parent / "run.json").read_text())
    captions = ["Mugen jumps up", "Mugen walks to the left"]
    assert [sample["text"] for sample in record["samples"]] == 2 * captions


@needs_vocabulary
def test_another_caption_gives_another_sample_with_the_same_seed(models, tmp_path, capsys):
    def clip(text: str) -> np.ndarray:
        return np.load(run(TEXT, text_command(models, tmp_path, "--text", text), capsys)["clips"])

    jump, walk = clip("Mugen jumps up"), clip("Mugen walks to the left")
    assert jump.shape == (1, 16, 16, 16, 3)
    assert np.array_equal(jump, clip("Mugen jumps up")) and not np.array_equal(jump, walk)


@needs_vocabulary
def test_a_caption_that_is_too_long_is_cut_with_a_notice(caplog):
    words = "jump " * 300
    tokens = caption_tokens([words, "Mugen jumps"], 256)
    assert tokens.shape == (2, 256) and int(tokens[0, -1]) == 49407
    assert "has 302 tokens; what comes after the first 256 is cut off" in caplog.text
    assert len(caplog.records) == 1
    assert default_tokenizer().decode(tokens[1]).strip() == "mugen jumps"


@pytest.mark.parametrize(
    ("flags", "kind", "said"),
    [
        ([], "text", "--text or --text_file is missing"),
        (["--text", "a", "--text_file", "b"], "text", "or both are given"),
        (["--text", "  "], "text", "--text is empty"),
        (["--text_file", "{tmp}/nothing.txt"], "text", "--text_file"),
        (["--text_file", "{tmp}/empty.txt"], "text", "is empty; expected one caption a line"),
        (["--text", "Mugen jumps"], "uncond", "conditioned on nothing"),
        (["--text", "Mugen jumps", "--n_sample", "0"], "text", "--n_sample got 0"),
    ],
)
def test_mistakes_with_text_are_told_in_one_line_and_leave_nothing(
    flags, kind, said, models, tmp_path, capsys
):
    (tmp_path / "empty.txt").write_text("\n \n")
    words = [word.format(tmp=tmp_path) for word in flags]
    arguments = text_command(models, tmp_path / "out", *words, kind=kind)
    assert said in refused(TEXT, arguments, capsys)
    assert not (tmp_path / "out").exists()
