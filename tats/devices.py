"""Which device a script works on."""

from __future__ import annotations

import os

import torch

from tats.errors import UserError

# What torchrun and srun call the number of a process among those of its machine.
LOCAL_RANK_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID")


def choose_device(text: str) -> torch.device:
    """Read ``--device``, and try the device.

    Args:
        text: cpu, cuda, cuda:1 …; or "auto", the GPU where there is one. Of several GPUs each
            process of a machine takes its own, and shares it where processes outnumber GPUs.

    Raises:
        UserError: there is no such device here.
    """
    name = _automatic() if text == "auto" else text
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        wanted = text if text == name else f"{text}, which is {name} here"
        raise UserError(
            f"--device got {wanted} ({reason}); expected auto, cpu, cuda or cuda:NUMBER"
        ) from error
    return device


def _automatic() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    number = next((os.environ[name] for name in LOCAL_RANK_VARIABLES if name in os.environ), "0")
    if not number.isdecimal():
        raise UserError(
            f"{' or '.join(LOCAL_RANK_VARIABLES)} got {number!r} for --device auto; expected a "
            "number: name the device, or unset the variable"
        )
    return f"cuda:{int(number) % torch.cuda.device_count()}"
