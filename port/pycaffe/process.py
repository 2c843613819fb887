"""What a script sets for the whole process: the log, and its place among several solvers."""

from typing import NoReturn

from port.ranks import solver_count, solver_rank
from port.training.caffe_log import CaffeLog
from prototxt.errors import InputError
from runtime.errors import CaffeRuntimeError

LOG = CaffeLog()
"""The log of everything that runs in pycaffe."""


def init_log(level: int = 0, stderr: bool = False) -> None:
    """Log from `level` on: 0 INFO, 1 WARNING, 2 ERROR, 3 FATAL. The lines go to stderr in any case."""
    LOG.minloglevel = level


def log(message: str) -> None:
    """A line of the script's own in the log."""
    LOG("_caffe.cpp:68", message)


def set_solver_count(count: int) -> None:
    """Accepts what already is so.

    Raises:
        InputError: another number: processes that train together are started by `torchrun`.
    """
    _already("solver_count", count, solver_count())


def set_solver_rank(rank: int) -> None:
    """Accepts what already is so; raises as `set_solver_count` does."""
    _already("solver_rank", rank, solver_rank())


def set_multiprocess(multiprocess: bool) -> None:
    """Accepted: several solvers are always several processes."""


def _already(name: str, asked: int, actual: int) -> None:
    if asked != actual:
        raise InputError(
            f"{name} is {actual}, not {asked}: start processes that train together with torchrun"
        )


def has_nccl() -> bool:
    """False: Caffe's NCCL class is not there. (Training on several GPUs is: see `train_caffe_equiv.py`.)"""
    return False


class NCCL:
    """Not there; making one says so."""

    def __init__(self, solver: object, uid: str | bytes):
        _no_nccl()

    @staticmethod
    def new_uid() -> NoReturn:
        _no_nccl()


def _no_nccl() -> NoReturn:
    raise CaffeRuntimeError(
        "caffe.NCCL is not supported: train on several GPUs with torchrun and train_caffe_equiv.py"
    )
