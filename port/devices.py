"""Where tensors are, and what computes SeeNet's convolutions: `--device`, `--engine`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from prototxt.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

ENGINES = ("torch", "winograd")
"""What computes the convolutions: PyTorch, or, on CPUs, Winograd's minimal filtering (`port.models.fast`)."""


def batch_that_fits(count: int, run: Callable[[int], object]) -> int:
    """The largest of `count`, half of it, a quarter of it, … that `run` does not run out of the device's memory with.

    Returns:
        0 where one is too many.
    """
    import torch

    while count:
        try:
            run(count)
            return count
        except torch.OutOfMemoryError:
            count //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return 0


def float32_convolutions() -> AbstractContextManager[None]:
    """Caffe's float32 is float32: no TF32 within this context. How cuDNN is to choose its kernels stays as set."""
    import torch

    own = torch.backends.cudnn
    return own.flags(
        enabled=own.enabled, benchmark=own.benchmark, deterministic=own.deterministic, allow_tf32=False
    )


def divided(x: "Tensor", by: float) -> "Tensor":
    """x / by, rounded once.

    On CUDA PyTorch multiplies by 1 / by where `by` is a number of Python's, which may give the number beside it:
    enough to move the edge of a bin by one place.
    """
    return x / x.new_tensor(by)


def check_device(device: str) -> None:
    """Raises InputError where `device` is neither "cpu" nor a "cuda" that is here."""
    if device == "cpu":
        return
    if device == "cuda":
        import torch  # only here: a wrong option is told without it

        if torch.cuda.is_available():
            return
    raise InputError(f'--device "{device}" is not available here: use cpu')


def check_engine(engine: str) -> None:
    """Raises InputError where there is no such engine."""
    if engine not in ENGINES:
        raise InputError(f'engine "{engine}": there is none; the engines are {", ".join(ENGINES)}')
