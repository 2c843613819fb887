"""Where tensors are: `--device`."""

import torch

from prototxt.errors import InputError


def check_device(device: str) -> None:
    """Raises InputError where `device` is neither "cpu" nor a "cuda" that is here."""
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f'--device "{device}" is not to be had here: use cpu')
