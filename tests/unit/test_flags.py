"""The flags: published names and defaults, how they parse, and what the checks say."""

from __future__ import annotations

import argparse
import ast
import builtins
import inspect
import os
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

from tats import flags
from tats.errors import UserError
from tats.flags import (
    add_audio_sampling_flags,
    add_data_flags,
    add_hierarchical_sampling_flags,
    add_long_sampling_flags,
    add_short_sampling_flags,
    add_text_sampling_flags,
    add_trainer_flags,
    add_transformer_flags,
    add_vqgan_flags,
    check_block_size,
    check_data_args,
    check_hierarchical_args,
    check_sampling_args,
    check_sliding_args,
    check_transformer_args,
    check_vqgan_args,
    check_writable,
    new_parser,
    with_defaults,
)

GROUPS = {
    "data": add_data_flags,
    "vqgan": add_vqgan_flags,
    "transformer": add_transformer_flags,
    "trainer": add_trainer_flags,
    "short": add_short_sampling_flags,
    "long": add_long_sampling_flags,
    "hierarchical": add_hierarchical_sampling_flags,
    "audio": add_audio_sampling_flags,
    "text": add_text_sampling_flags,
}
CHECKPOINTS = "--gpt_ckpt g --vqgan_ckpt v"

# What the published scripts default to.
PUBLISHED_DEFAULTS = {
    "data": {
        "sequence_length": 16,
        "resolution": 64,
        "batch_size": 32,
        "num_workers": 8,
        "image_channels": 3,
        "smap_cond": 0,
        "spatial_length": 15,
        "sample_every_n_frames": 1,
        "max_label": 18,
        "text_seq_len": 256,
        "false_text_prob": 0,
        "image_folder": False,
        "stft_data": False,
        "vtokens": False,
        "vtokens_pos": False,
        "text_cond": False,
    },
    "vqgan": {
        "embedding_dim": 256,
        "n_codes": 2048,
        "n_hiddens": 240,
        "lr": 3e-4,
        "downsample": [4, 4, 4],
        "disc_channels": 64,
        "disc_layers": 3,
        "discriminator_iter_start": 50000,
        "disc_loss_type": "hinge",
        "image_gan_weight": 1,
        "video_gan_weight": 1,
        "l1_weight": 4,
        "gan_feat_weight": 0,
        "perceptual_weight": 0,
        "restart_thres": 1,
        "no_random_restart": False,
        "norm_type": "group",
        "padding_type": "replicate",
        "i3d_feat": False,
    },
    "transformer": {
        "unconditional": False,
        "base_lr": 4.5e-6,
        "vocab_size": 16384,
        "first_stage_vocab_size": 16384,
        "block_size": 256,
        "n_layer": 48,
        "n_head": 24,
        "n_embd": 1536,
        "n_unmasked": 0,
        "sample_every_n_latent_frames": 0,
        "first_stage_key": "video",
        "cond_stage_key": "label",
    },
    "short": {
        "save": "./results/tats",
        "run": 0,
        "top_k": 2048,
        "top_p": 0.92,
        "n_sample": 2048,
        "class_cond": False,
        "save_videos": False,
        "compute_fvd": False,
    },
    "long": {
        "batch_size": 10,
        "save": "./results",
        "top_k": 2048,
        "top_p": 0.92,
        "n_sample": 100,
        "sample_length": 256,
        "temporal_sample_pos": 1,
    },
    "hierarchical": {
        "save": "./results",
        "dataset": "taichi",
        "batch_size": 12,
        "top_k_init": 2048,
        "top_p_init": 0.8,
        "top_k": 2048,
        "top_p": 0.8,
        "n_sample": 2048,
        "sample_length": 64,
        "temporal_sample_pos": 1,
        "interpolation": "released",
    },
    "audio": {
        "save": "./results/tats",
        "data_path": "./dataset/AudioSet_Dataset/stft",
        "top_k": 2048,
        "top_p": 0.92,
        "dataset": "drum",
    },
}


def parse(groups: str, command: str = "") -> Namespace:
    parser = new_parser("a test")
    for group in groups.split():
        GROUPS[group](parser)
    return parser.parse_args(command.split())


# --- parsing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("group", PUBLISHED_DEFAULTS)
def test_defaults_are_the_published_ones(group):
    parsed = vars(parse(group))
    published = PUBLISHED_DEFAULTS[group]
    assert {name: parsed[name] for name in published} == published


@pytest.mark.parametrize("group", GROUPS)
def test_every_flag_is_explained_and_declared_once(group):
    parser = new_parser("a test")
    GROUPS[group](parser)
    assert parser.format_help()  # a % in a help text would raise here
    names = [action.dest for action in parser._actions]
    assert len(names) == len(set(names))
    assert all(action.help for action in parser._actions)


def test_a_flag_of_many_scripts_is_written_down_once():
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(flags)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Flag"
    ]
    names = Counter(ast.literal_eval(call.args[0]) for call in calls)
    assert len(names) > 100
    assert [name for name, times in names.items() if times > 1] == []


def test_a_switch_may_be_given_bare_or_with_a_value():
    assert parse("data", "--image_folder").image_folder is True
    assert parse("data", "--image_folder true").image_folder is True
    assert parse("data", "--image_folder False").image_folder is False


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("1.0", 1.0), ("1", 1), ("200", 200), ("1e-1", 0.1)]
)
def test_a_point_tells_a_fraction_from_a_count(text, value):
    parsed = parse("trainer", f"--val_check_interval {text}").val_check_interval
    assert parsed == value and type(parsed) is type(value)


def test_a_negative_count_of_gpus_is_a_value_and_no_flag():
    assert parse("trainer", "--gpus -1").gpus == "-1"


def test_a_setting_only_todays_trainer_has_parses_as_what_it_looks_like():
    parsed = parse("trainer", "--min_steps 5 --inference_mode false --max_time 00:01:00:00")
    assert (parsed.min_steps, parsed.inference_mode) == (5, False)
    assert parsed.max_time == "00:01:00:00"


def test_what_the_models_decide_is_left_to_them():
    assert parse("long").sample_resolution is None
    assert parse("hierarchical").sample_resolution is None
    assert parse("audio").n_sample is None
    assert parse("short").class_label is None


def test_several_classes_may_be_named():
    assert parse("short", "--class_label 3 3 7").class_label == [3, 3, 7]


def test_ckpt2_may_be_spelled_in_capitals():
    assert parse("hierarchical", "--CKPT2 b").ckpt2 == "b"


@pytest.mark.parametrize("name", flags.REFUSED_TRAINER_FLAGS)
def test_a_forgotten_trainer_flag_is_refused_in_one_line_that_names_it(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("trainer", f"--{name} 1")
    assert stopped.value.code == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert f"--{name} is no longer supported: " in last


@pytest.mark.parametrize(
    "command",
    ["--norm_type layer", "--downsample 4 4", "--lr fast", "--nosuchflag 1", "--n_cod 5"],
)
def test_argparse_refuses_what_no_flag_can_mean(command):
    with pytest.raises(SystemExit) as stopped:
        parse("data vqgan", command)
    assert stopped.value.code == 2


def test_building_and_parsing_touch_no_disk(monkeypatch):
    parse("trainer")  # imports Lightning

    touched: list[str] = []

    def recorded(function):
        def call(path=".", *args, **kwargs):
            touched.append(str(path))
            return function(path, *args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", recorded(builtins.open))
        for name in ("stat", "lstat", "listdir", "scandir", "mkdir", "makedirs"):
            patch.setattr(os, name, recorded(getattr(os, name)))
        parse("data vqgan trainer", "--data_path /nowhere --default_root_dir /nowhere --gpus 8")
        parse("data transformer", "--vqvae /nowhere/v.ckpt")
        parse("short", f"{CHECKPOINTS} --save /nowhere/s")
    # argparse itself looks for translations of its messages
    assert not [path for path in touched if not path.endswith(".mo")]


# --- older settings ---------------------------------------------------------------------------


def test_older_settings_are_completed_and_left_alone():
    old = Namespace(n_codes=64, sequence_length=8, accumulate_grad_batches=None, mine="kept")
    filled = with_defaults(old)
    assert (filled.n_codes, filled.sequence_length, filled.mine) == (64, 8, "kept")
    assert (filled.padding_type, filled.n_unmasked, filled.class_cond_dim) == ("replicate", 0, None)
    assert filled.accumulate_grad_batches == 1, "a stored None stands for the default"
    assert not hasattr(old, "padding_type")
    assert with_defaults(vars(old)) == filled


def test_filled_defaults_are_not_shared_between_models():
    with_defaults({}).downsample.append(2)
    assert with_defaults({}).downsample == [4, 4, 4]


# --- checks -----------------------------------------------------------------------------------


VQGAN_OK = "--data_path d --n_hiddens 16 --resolution 32"
GPT_OK = "--data_path d --vqvae v --n_embd 32 --n_head 4"


def test_sound_flags_pass_their_checks():
    check_vqgan_args(parse("data vqgan trainer", VQGAN_OK))
    check_vqgan_args(parse("data vqgan trainer", f"{VQGAN_OK} --stft_data --downsample 4 8 8"))
    check_transformer_args(parse("data transformer trainer", GPT_OK))
    check_sampling_args(parse("short", CHECKPOINTS))
    check_sampling_args(parse("long", CHECKPOINTS))
    check_sampling_args(parse("audio", f"{CHECKPOINTS} --stft_vqgan_ckpt s"))
    check_hierarchical_args(parse("hierarchical", "--ckpt1 a --ckpt2 b --vqgan v"))


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "--data_path is missing"),
        ("--data_path d --batch_size 0", "--batch_size got 0"),
        ("--data_path d --sequence_length 0", "--sequence_length got 0"),
        ("--data_path d --sequence_length -1", "--sequence_length got -1"),
        ("--data_path d --resolution 0", "--resolution got 0"),
        ("--data_path d --num_workers -1", "--num_workers got -1"),
        ("--data_path d --sample_every_n_frames 0", "--sample_every_n_frames got 0"),
        ("--data_path d --vtokens_pos", "--vtokens_pos got no --vtokens"),
        ("--data_path d --vtokens --image_folder", "--vtokens got --image_folder"),
        ("--data_path d.h5 --smap_cond 1", "--smap_cond got 1 with --data_path d.h5"),
        ("--data_path d --random_alien", "--random_alien got True"),
        ("--data_path d/coinrun --max_label 19", "--max_label got 19"),
    ],
)
def test_data_flags_that_do_not_fit_are_named(command, complaint):
    with pytest.raises(UserError, match=complaint):
        check_data_args(parse("data", command))


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("--resolution 30", "--resolution gives 30 along height; expected a multiple of .* 4"),
        ("--sequence_length 6", "--sequence_length gives 6 along time"),
        ("--sequence_length 64 --sample_every_n_frames 32", "gives 2 along time"),
        ("--downsample 4 8 8 --resolution 4", "gives 4 along height"),
        ("--downsample 3 4 4", "--downsample got 3 4 4; expected powers of 2"),
        ("--downsample 0 4 4", "--downsample got 0 4 4"),
        ("--n_hiddens 12", "--n_hiddens got 12"),
        ("--n_codes 1", "--n_codes got 1"),
        ("--lr 0", "--lr got 0"),
        ("--accumulate_grad_batches 0", "--accumulate_grad_batches got 0"),
        ("--checkpoint_every_n_steps 0", "--checkpoint_every_n_steps got 0"),
        ("--max_skipped_steps -1", "--max_skipped_steps got -1"),
        ("--keep_checkpoints 0", "--keep_checkpoints got 0"),
        ("--save_every_minutes -1", "--save_every_minutes got -1"),
        ("--progress_bar_refresh_rate -1", "--progress_bar_refresh_rate got -1"),
        ("--max_steps -2", "--max_steps got -2"),
        ("--seed -1", "--seed got -1"),
        ("--perceptual_weight -1", "--perceptual_weight got -1"),
        ("--data_path coinrun --smap_cond 1", "--smap_cond got 1; expected 0"),
        ("--data_path coinrun --get_text_only", "--get_text_only gives clips without pictures"),
        ("--vtokens", "--vtokens is for the transformer"),
        ("--batch_size 0", "--batch_size got 0"),
    ],
)
def test_vqgan_flags_that_do_not_fit_are_named(command, complaint):
    with pytest.raises(UserError, match=complaint):
        check_vqgan_args(parse("data vqgan trainer", f"{VQGAN_OK} {command}"))


def test_batch_norm_takes_any_width():
    command = f"{VQGAN_OK} --n_hiddens 12 --norm_type batch"
    check_vqgan_args(parse("data vqgan trainer", command))


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("--n_unmasked 1", "--n_unmasked got 1"),
        ("--n_unmasked 200", "--n_unmasked got 200"),
        ("--n_head 5", "--n_embd got 32; expected a multiple of --n_head 5"),
        ("--block_size 0", "--block_size got 0"),
        ("--base_lr -1", "--base_lr got -1"),
        ("--stft_data --image_channels 1", "--image_channels got 1 with --stft_data; expected 3"),
        ("--cond_stage_key text", "--cond_stage_key text got no --text_cond"),
        ("--cond_stage_key stft --stft_data", "--cond_stage_key stft got no --stft_vqvae"),
        (
            "--vtokens --vtokens_pos --cond_stage_key stft --stft_vqvae s",
            "--cond_stage_key stft got no --stft_data",
        ),
    ],
)
def test_transformer_flags_that_do_not_fit_are_named(command, complaint):
    with pytest.raises(UserError, match=complaint):
        check_transformer_args(parse("data transformer trainer", f"{GPT_OK} {command}"))


def test_a_transformer_needs_a_first_stage_or_stored_codes():
    with pytest.raises(UserError, match="--vqvae is missing"):
        check_transformer_args(parse("data transformer trainer", "--data_path d"))
    command = "--data_path d.h5 --vtokens --unconditional --n_embd 32 --n_head 4"
    check_transformer_args(parse("data transformer trainer", command))


def test_the_block_must_hold_the_condition_and_all_tokens_but_the_last():
    args = parse("transformer", "--block_size 64")
    check_block_size(args, 1, (4, 4, 4))
    with pytest.raises(UserError, match="--block_size got 64; expected at least 65"):
        check_block_size(args, 2, (4, 4, 4))


@pytest.mark.parametrize(
    ("groups", "command", "complaint"),
    [
        ("short", "--vqgan_ckpt v", "--gpt_ckpt is missing"),
        ("long", "--gpt_ckpt g", "--vqgan_ckpt is missing"),
        ("hierarchical", "--ckpt1 a --vqgan v", "--ckpt2 is missing"),
        ("short", f"{CHECKPOINTS} --top_p 0", "--top_p got 0"),
        ("short", f"{CHECKPOINTS} --top_p 1.1", "--top_p got 1.1"),
        ("short", f"{CHECKPOINTS} --top_p nan", "--top_p got nan"),
        ("short", f"{CHECKPOINTS} --top_k -1", "--top_k got -1"),
        ("short", f"{CHECKPOINTS} --n_sample 0", "--n_sample got 0"),
        ("short", f"{CHECKPOINTS} --temperature -0.5", "--temperature got -0.5"),
        ("short", f"{CHECKPOINTS} --temperature nan", "--temperature got nan"),
        ("short", f"{CHECKPOINTS} --class_label 3 -1", "--class_label got 3 -1"),
        ("long", f"{CHECKPOINTS} --seed -1", "--seed got -1; expected a number from 0"),
        ("audio", f"{CHECKPOINTS} --stft_vqgan_ckpt s --seed 4294967296", "--seed got 4294967296"),
        ("short", f"{CHECKPOINTS} --batch_size 0", "--batch_size got 0"),
        ("short", f"{CHECKPOINTS} --dataset nosuch", "--dataset got 'nosuch'"),
        ("long", f"{CHECKPOINTS} --dataset ../up", "--dataset got '../up'"),
        ("long", f"{CHECKPOINTS} --dataset ..", "--dataset got '..'"),
        ("short", f"{CHECKPOINTS} --compute_fvd", "--compute_fvd got no --data_path"),
    ],
)
def test_sampling_flags_that_do_not_fit_are_named(groups, command, complaint):
    with pytest.raises(UserError, match=complaint):
        check_sampling_args(parse(groups, command))


def test_a_data_set_of_ones_own_may_have_any_usable_name():
    check_sampling_args(parse("short", f"{CHECKPOINTS} --dataset mine-2 --data_path d"))
    check_sampling_args(parse("long", f"{CHECKPOINTS} --dataset mine-2"))


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("--temporal_sample_pos 4", "--temporal_sample_pos got 4; expected less than 4"),
        ("--temporal_sample_pos 0", "--temporal_sample_pos got 0"),
        ("--sample_length 2 --temporal_sample_pos 2", "less than --sample_length 2"),
        ("--sample_length 0", "--sample_length got 0"),
    ],
)
def test_a_sliding_window_must_fit_the_transformer_and_the_video(command, complaint):
    with pytest.raises(UserError, match=complaint):
        check_sliding_args(parse("long", command), 4)


def test_key_frames_lie_four_latent_frames_apart():
    command = "--ckpt1 a --ckpt2 b --vqgan v --sample_length 66"
    with pytest.raises(UserError, match="--sample_length got 66; expected a multiple of 4"):
        check_hierarchical_args(parse("hierarchical", command))


def test_every_complaint_is_one_line_that_says_got_and_expected():
    for command in ("--batch_size 0", "--resolution 30", "--downsample 3 4 4"):
        with pytest.raises(UserError) as raised:
            check_vqgan_args(parse("data vqgan trainer", f"{VQGAN_OK} {command}"))
        message = str(raised.value)
        assert "\n" not in message and "expected" in message and message.startswith("--")


def test_an_output_folder_is_made_and_tried(tmp_path: Path):
    check_writable(tmp_path / "a" / "b", "save")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match=r"--save got .*file/below; expected a folder"):
        check_writable(tmp_path / "file" / "below", "save")


def test_the_parser_takes_no_abbreviations():
    assert new_parser("x").allow_abbrev is False
    assert isinstance(new_parser("x"), argparse.ArgumentParser)
