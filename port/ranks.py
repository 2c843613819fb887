"""Several processes training together, one device each, as Caffe trains on several GPUs (parallel.cpp).

Each rank has its own batch; the gradients are averaged; the first rank logs, tests and snapshots. `torchrun`
starts the processes.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from prototxt.errors import InputError


def solver_count() -> int:
    """How many processes train together: Caffe's `solver_count`."""
    return dist.get_world_size() if _together() else 1


def solver_rank() -> int:
    """This one's number among them, from 0: Caffe's `solver_rank`."""
    return dist.get_rank() if _together() else 0


def from_environment(name: str, otherwise: int) -> int:
    """A number that torchrun sets; `otherwise` where it is not set.

    Raises:
        InputError: something else than a number.
    """
    text = os.environ.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InputError(f'{name}="{text}": torchrun sets a number there: unset it')
    return int(text)


@contextlib.contextmanager
def joined_ranks(device: str) -> Iterator[torch.device]:
    """Train together with the processes that `torchrun` started, if it did; gives this one's device.

    Raises:
        InputError: what torchrun sets is not whole, or the processes cannot join.
    """
    if "WORLD_SIZE" not in os.environ:
        yield torch.device(device)
        return
    here = torch.device(device)
    if here.type == "cuda":
        here = torch.device("cuda", from_environment("LOCAL_RANK", 0))
        torch.cuda.set_device(here)
    if from_environment("RANK", 0) >= from_environment("WORLD_SIZE", 1):
        raise InputError("RANK must be below WORLD_SIZE: torchrun sets both: unset them")
    try:
        if here.type == "cuda":
            dist.init_process_group("nccl", device_id=here)
        else:
            dist.init_process_group("gloo")
    except (ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"WORLD_SIZE is set, and the processes cannot join ({told}): start them with torchrun, or unset it"
        ) from error
    try:
        yield here
    finally:
        dist.destroy_process_group()


def average_gradients(weights: Iterable[Tensor]) -> None:
    """Replace each `.grad` by its mean over the ranks."""
    if solver_count() == 1:
        return
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        dist.all_reduce(weight.grad)
        weight.grad.mul_(1 / solver_count())


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every rank the first one's values."""
    if solver_count() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def first_ranks(value: Any) -> Any:
    """The first rank's `value`, on every rank."""
    if solver_count() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def all_ranks(value: Any) -> list[Any]:
    """Every rank's `value`, in order."""
    if solver_count() == 1:
        return [value]
    values: list[Any] = [None] * solver_count()
    dist.all_gather_object(values, value)
    return values


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()
