"""Weights into a module's tensors, by layer name."""

from collections.abc import Container, Mapping, Sequence

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
    with torch.no_grad():
        for name, arrays in found.items():
            for blob, array in zip(blobs[name], arrays, strict=True):
                if array is not None:
                    blob.copy_(torch.tensor(array))
    return skipped
