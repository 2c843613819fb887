"""Names of Caffe as identifiers of Python."""

import keyword
import re
from collections.abc import Iterable, Sequence

from torch import nn

_TAKEN = frozenset(dir(nn.Module())) | {"self", "nn", "F", "torch", "Tensor", "x", "y", "print"}
"""What an attribute or a variable of a model may not be called."""

_WORDS = {"InnerProduct": "fc", "Convolution": "conv", "Deconvolution": "upconv", "BatchNorm": "bn"}


def identifier(name: str, layer_type: str = "") -> str:
    """`name` with what Python does not allow replaced: "conv1/3x3" → conv1_3x3, "class" → class_."""
    text = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")
    if not text or text[0].isdigit():
        word = _WORDS.get(layer_type, identifier(layer_type).lower() if layer_type else "blob")
        text = f"{word}_{text}".strip("_")
    if keyword.iskeyword(text) or keyword.issoftkeyword(text) or text in _TAKEN:
        text += "_"
    return text


class Names:
    """Identifiers that are given once."""

    def __init__(self, taken: Iterable[str] = ()):
        self.taken = set(taken)

    def give(self, wanted: str, between: str = "_") -> str:
        """`wanted`, or, if it is given already, with a number behind it."""
        name, count = wanted, 1
        while name in self.taken:
            count += 1
            name = f"{wanted}{between}{count}"
        self.taken.add(name)
        return name


def _common_start(texts: Sequence[str]) -> str:
    least, greatest = min(texts), max(texts)
    same = next((i for i, (a, b) in enumerate(zip(least, greatest, strict=False)) if a != b), None)
    return least[:same]


def common_prefix(names: Sequence[str]) -> str:
    """The start that all names have in common, up to where a word ends."""
    prefix = _common_start(names)
    if not all(
        len(name) == len(prefix) or not (name[len(prefix)].isalnum() and prefix[-1:].isalnum())
        for name in names
    ):
        prefix = re.sub(r"[A-Za-z0-9]+$", "", prefix)
    return prefix.strip("_/-. ")


def without_what_differs(names: Sequence[str]) -> str:
    """What all names start and end with: "res2a_branch2b", "res3a_branch2b" → "res_branch2b".

    Where that loses words that all have, those: "x_128_conv1_h", "x_256_conv1" → "x_conv1".
    """
    start = _common_start(names)
    rest = [name[len(start) :] for name in names]
    end = _common_start([text[::-1] for text in rest])[::-1]
    if all(text.removesuffix(end).isdigit() for text in rest):
        end = re.sub(r"^[a-z](?=[_/])", "", end)
    words = [re.split(r"[_/.\-]+", name) for name in names]
    common = [word for word in words[0] if all(word in others for others in words)]
    kept = re.split(r"[_/.\-]+", start + end)
    cut_off = not end and not common and not any(start in others for others in words)
    return "_".join(common) if cut_off or not set(common) <= set(kept) else start + end
