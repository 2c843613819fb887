"""Weights into a module's tensors, by layer name."""

from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from weights import LayerWeights, match_by_name


def copy_by_name(
    source: Sequence[LayerWeights],
    blobs: Mapping[str, Sequence[Tensor]],
    where: str,
    shared: Container[tuple[str, int]] = (),
) -> list[str]:
    """Copy weights as Caffe does; see `weights.match_by_name`.

    Args:
        blobs: of every layer of the net, by name, the tensors to copy to, in Caffe's order.

    Returns:
        The layers of `source` that the net lacks.

    Raises:
        InputError: where a layer has another number of blobs, or a blob another shape.
    """
    target = {name: [tuple(blob.shape) for blob in own] for name, own in blobs.items()}
    found, skipped = match_by_name(source, target, where, shared=shared)
    for name, arrays in found.items():
        copy_arrays(arrays, blobs[name])
    return skipped


@torch.no_grad()
def copy_arrays(arrays: Sequence[np.ndarray | None], blobs: Sequence[Tensor]) -> None:
    """Copy one layer's weights; a blob for which there is None stays as it is."""
    for blob, array in zip(blobs, arrays, strict=True):
        if array is not None and blob.device.type == "cpu" and blob.dtype in (torch.float32, torch.float64):
            np.copyto(
                blob.detach().numpy(), array, casting="unsafe"
            )  # from a mapped file, without a copy between
        elif array is not None:
            blob.copy_(torch.tensor(array))
