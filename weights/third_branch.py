"""`seenet convert --explain X`: whether S_C of a trained SeeNet had weights of its own, as far as its file tells."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prototxt.errors import InputError
from weights.caffemodel import parameter_names
from weights.formats import read_weights
from weights.layer_weights import LayerWeights

S_B = ("conv1_b2", "conv2_b2", "score_b2")

SHARED, OWN, UNKNOWN = "shared", "own", "unknown"


@dataclass(frozen=True)
class ThirdBranch:
    """What a file tells of S_C.

    Attributes:
        form: SHARED: S_C is S_B's own classifier; OWN: S_C has weights of its own; UNKNOWN: the file has no S_C.
        lines: what was found, and what it means, for people.
    """

    form: str
    lines: list[str]


def third_branch(path: str | os.PathLike) -> ThirdBranch:
    """Tell which of the two forms of S_C a file of SeeNet's weights comes from.

    S_C's layers are known by their shapes, whatever their names: neither S_A's (…_b1) nor S_B's (…_b2), and shaped
    as S_B's are. Caffe writes a shared parameter once for each layer that has it, so that S_C's numbers then equal
    S_B's; and a .caffemodel keeps the names that share it.

    Raises:
        InputError: an unreadable file, or one without S_B.
    """
    layers = {layer.name: layer for layer in read_weights(path, with_empty=True)}
    missing = [name for name in S_B if name not in layers or not layers[name].present]
    if missing:
        raise InputError(
            f"{os.fspath(path)}: not SeeNet's weights: {', '.join(missing)} missing: --explain tells of SeeNet's S_C"
        )
    names = parameter_names(path)
    lines, found = [], []
    for name in S_B:
        others = _like(layers, name, names)
        told = f"parameters named {', '.join(names[name])}" if names.get(name) else "parameters not named"
        lines.append(f"{name}: {told}")
        for other in others:
            equal = _equal(layers[name], layers[other])
            by_name = bool(names.get(name)) and names.get(name) == names.get(other)
            left_out = not layers[other].present
            found.append((name, equal or by_name or left_out))
            lines.append(f"  {other}: {_relation(equal, by_name, left_out)}")
    return ThirdBranch(*_verdict(lines, found, names))


def _like(layers: dict[str, LayerWeights], name: str, names: dict[str, list[str]]) -> list[str]:
    """The layers that may be S_C's counterpart of one of S_B's."""
    stem = name.split("_")[0]
    shapes = [blob.shape for blob in layers[name].present]
    return [
        other
        for other, layer in layers.items()
        if other not in S_B
        and re.fullmatch(rf"{stem}_[a-z]\w*", other)
        and not other.endswith(("_b1", "_split"))
        and (
            [blob.shape for blob in layer.present] == shapes
            or not layer.present
            or (names.get(name) and names.get(name) == names.get(other))
        )
    ]


def _relation(equal: bool, by_name: bool, left_out: bool) -> str:
    if left_out:
        return "left out of the file, as HDF5 leaves out what another layer owns"
    numbers = "the same numbers" if equal else "other numbers"
    return f"{numbers}, {'the same parameter names' if by_name else 'other parameter names, or none'}"


def _equal(one: LayerWeights, other: LayerWeights) -> bool:
    pairs = zip(one.present, other.present, strict=False)
    return len(one.present) == len(other.present) and all(np.array_equal(a, b) for a, b in pairs)


def _verdict(
    lines: Sequence[str], found: Sequence[tuple[str, bool]], names: dict[str, list[str]]
) -> tuple[str, list[str]]:
    if not found:
        named = [name for name, own in names.items() if own]
        hint = "No parameter is named, or the file does not keep names: no hint."
        if set(S_B) <= set(named):
            hint = (
                f"Its named parameters are those of {', '.join(named)}; a name serves to share a parameter, so this "
                "points to S_C as S_B's own classifier, and proves nothing."
            )
        return UNKNOWN, [
            *lines,
            "No S_C in this file, as in a net for testing: it cannot tell the form.",
            hint,
        ]
    if {name for name, shared in found if shared} == set(S_B):
        return SHARED, [*lines, "S_C shares S_B's weights: the net is train_shared.prototxt's form."]
    return OWN, [*lines, "S_C has weights of its own: the net is train.prototxt's form."]
