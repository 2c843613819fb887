"""What an exported file computes, held against the port."""

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from port.export.writers import SEENET_OUTPUTS, deployed_blobs, first_line
from port.models.crelu import normalised_attention
from port.models.seenet import SeeNet
from port.net import CaffeNet
from prototxt.errors import InputError, need_packages
from weights.layer_weights import shape_text
from weights.metadata import KEYS

TOLERANCE = 1e-5
"""Of a blob's largest magnitude: what whole nets are held to."""

SHAPES = ((1, 256, 256), (2, 37, 53), (3, 61, 45), (1, 128, 96), (5, 16, 17), (2, 1, 1))
"""(num, height, width) of the random images that an exported SeeNet is run on."""

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""A loaded file: its outputs, in order, for inputs in order."""


@dataclass(frozen=True)
class Case:
    """One run: inputs, and what the port makes of them by output."""

    name: str
    inputs: list[Tensor]
    expected: dict[str, Tensor]


@dataclass
class Checked:
    """What was found of one file.

    Attributes:
        worst: by output, the largest difference as a share of the output's largest magnitude in the same run
            (infinite for NaN or another shape), and in which run.
        inherited: outputs with a larger difference, which comes from their inputs alone: a softmax of large scores
            shows the scores' rounding many times enlarged, in the port too.
        flips: C-ReLU positions that are erased, negated or kept otherwise than by the port, of `positions`.
    """

    worst: dict[str, tuple[float, str]] = field(default_factory=dict)
    inherited: set[str] = field(default_factory=set)
    flips: int = 0
    positions: int = 0

    @property
    def within(self) -> bool:
        return not self.flips and all(self.is_within(output) for output in self.worst)

    def is_within(self, output: str) -> bool:
        return self.worst[output][0] <= TOLERANCE or output in self.inherited


def seenet_cases(
    model: SeeNet,
    images: Mapping[str, np.ndarray],
    seed: int = 0,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
) -> list[Case]:
    """Random images, N(0, 50), of several shapes, and those given: (num, 3, height, width), by name.

    An image's labels are up to three of the classes that score highest on it, and none for some: what a class
    that scores nowhere is normalised by is rounding, and its attention noise in every engine.
    """
    generator = torch.Generator().manual_seed(seed)
    given = [
        (
            f"random {shape_text((num, 3, height, width))}",
            50 * torch.randn(num, 3, height, width, generator=generator),
        )
        for num, height, width in shapes
    ]
    given += [
        (f"{name} {shape_text(array.shape)}", torch.from_numpy(array)) for name, array in images.items()
    ]
    cases = []
    with torch.inference_mode():
        for run, (name, data) in enumerate(given):
            features = model.trunk(data)
            score_b1 = model.branch_a(features)
            ranked = score_b1.amax(dim=(2, 3)).argsort(dim=1, descending=True)
            label = torch.zeros(len(data), model.num_classes)
            for i, row in enumerate(label):
                row[ranked[i, : (run + i + 1) % 4]] = 1
            score_b2 = model.branch_b(features, score_b1, label)
            expected = (score_b1, score_b2, normalised_attention(score_b1, label))
            cases.append(Case(name, [data, label], dict(zip(SEENET_OUTPUTS, expected, strict=True))))
    return cases


def net_cases(net: CaffeNet, draws: Mapping[str, Sequence[Tensor]]) -> list[Case]:
    """Inputs of a CaffeNet by name, with what it makes of them."""
    with torch.inference_mode():
        blobs = deployed_blobs(net)
        return [Case(name, list(inputs), net(*inputs, blobs=blobs)) for name, inputs in draws.items()]


def check(
    run: Run,
    cases: Sequence[Case],
    thresholds: tuple[float, float] | None = None,
    made_of: Mapping[str, tuple[nn.Module, str]] | None = None,
) -> Checked:
    """Run a loaded file on every case.

    Args:
        thresholds: C-ReLU's maxt and mint; positions are counted where they are given.
        made_of: as `squashed` gives it.

    Raises:
        InputError: where it does not run.
    """
    found, alone = Checked(), dict.fromkeys(made_of or (), 0.0)
    for case in cases:
        try:
            got = dict(zip(case.expected, run(case.inputs), strict=True))
        except Exception as error:
            raise InputError(f"the exported file does not run on {case.name}: {first_line(error)}") from error
        for output, (layer, bottom) in (made_of or {}).items():
            alone[output] = max(alone[output], _share(got[output], layer(got[bottom])))
        for output, expected in case.expected.items():
            share = _share(got[output], expected)
            if share >= found.worst.get(output, (0.0, ""))[0]:
                found.worst[output] = (share, case.name)
        if thresholds:
            ours, theirs = (_decisions(a["attention"], *thresholds) for a in (case.expected, got))
            found.positions += ours.numel()
            found.flips += ours.numel() if ours.shape != theirs.shape else int((ours != theirs).sum())
    found.inherited = {name for name, share in alone.items() if share <= TOLERANCE < found.worst[name][0]}
    return found


def load(kind: str, path: str | os.PathLike) -> tuple[Run, dict[str, str]]:
    """A written file, loaded as its users load it, and its metadata.

    Args:
        kind: "onnx" (by ONNX Runtime, on the CPU), "torchscript" or "pt2".

    Raises:
        InputError: onnxruntime is not installed, or the file does not load.
    """
    if kind == "onnx":
        need_packages("onnxruntime", purpose="checking ONNX files")
    try:
        return _LOADERS[kind](os.fspath(path))
    except Exception as error:
        raise InputError(f"{path}: does not load as {kind}: {first_line(error)}") from error


def _load_onnx(path: str) -> tuple[Run, dict[str, str]]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run, dict(session.get_modelmeta().custom_metadata_map)


def _load_torchscript(path: str) -> tuple[Run, dict[str, str]]:
    files = dict.fromkeys(KEYS, "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(path, map_location="cpu", _extra_files=files)
    found = {key: text.decode() if isinstance(text, bytes) else text for key, text in files.items()}
    return _without_gradients(module), found


def _load_pt2(path: str) -> tuple[Run, dict[str, str]]:
    files = dict.fromkeys(KEYS, "")
    program = torch.export.load(path, extra_files=files)
    return _without_gradients(program.module()), files


def _without_gradients(module: Any) -> Run:
    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.inference_mode():
            return module(*inputs)

    return run


_LOADERS = {"onnx": _load_onnx, "torchscript": _load_torchscript, "pt2": _load_pt2}


def _share(got: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest magnitude."""
    if got.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    difference, largest = (got - expected).abs().max().item(), expected.abs().max().item()
    if math.isnan(difference):
        return math.inf
    return difference / largest if largest else math.inf if difference else 0.0


def _decisions(attention: Tensor, maxt: float, mint: float) -> Tensor:
    """Of each position 1 where it is erased, -1 where it is negated, else 0."""
    return (attention > maxt).int() - (attention < mint).int()
