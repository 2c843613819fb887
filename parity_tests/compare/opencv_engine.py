"""An outside opinion: a planned net run by OpenCV's own importer of Caffe models.

The net is written out again for it: inputs shaped as they are fed, no `Split` layers, no layer in place, and
every top named after its layer, so that each blob can be asked for. SeeNet's masks, which OpenCV lacks, are
registered as custom layers around the port's. Fusion and Winograd convolution are switched off: the one hides
blobs, the other rounds differently.
"""

import ast
import contextlib
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from google.protobuf import text_format
from torch import nn

from parity_tests.compare.inputs import FED, MASKS, is_mask
from port.images import quiet_opencv
from prototxt.caffe_pb2 import BlobShape, LayerParameter, NetParameter
from prototxt.plan import LayerPlan, Plan
from weights import LayerWeights, write_caffemodel
from weights.names import unique_names
from weights.rebuilt import Held

_NOT_OPENCVS = ("bottom", "top", "blobs", "param", "include", "exclude", "propagate_down", "loss_weight")


def run_opencv(
    plan: Plan, weights: Held, inputs: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Run a net in OpenCV.

    Args:
        weights: of the plan's layers, by index.
        inputs: a float32 array for each top of an Input or MemoryData layer, by name.

    Returns:
        The blobs by name, as the last layer that writes them leaves them (OpenCV gives every blob at least
        two axes); and the layers that OpenCV does not support, by name, each with the reason. A layer that
        reads from one of these is not supported either.
    """
    steps, last_top = _steps(plan)
    with custom_layers(), quiet_opencv(), tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "net.caffemodel")
        write_caffemodel(model, _weights(steps, weights))
        refused = {step.name: why for step in steps if (why := _known_limit(step.plan))}
        while True:
            carried, refused = _without(steps, refused)
            try:
                values = _forward(carried, inputs, model, wanted=last_top.values())
                break
            except cv2.error as error:
                refused |= _culprit(carried, inputs, model, error)
    blobs = {blob: values[top] for blob, top in last_top.items() if top in values}
    keys = unique_names(layer.name for layer in plan.layers)
    return blobs, {keys[step.plan.index]: refused[step.name] for step in steps if step.name in refused}


# ---- the net as OpenCV gets it


@dataclass(frozen=True)
class _Step:
    """A layer in OpenCV's net.

    Attributes:
        name: its name there, unique and without dots, which OpenCV takes apart.
        reads: names of its bottoms there.
        tops: names of its tops there; also of the layers to ask for them.
    """

    name: str
    plan: LayerPlan
    reads: tuple[str, ...]
    tops: tuple[str, ...]

    def messages(self) -> Iterator[LayerParameter]:
        message = LayerParameter()
        message.CopyFrom(self.plan.param)
        for field in _NOT_OPENCVS:
            message.ClearField(field)
        message.name = self.name
        message.type = self.plan.param.python_param.layer if self.plan.type == "Python" else self.plan.type
        message.bottom.extend(self.reads)
        if len(self.tops) == 1:
            message.top.extend(self.tops)
            yield message
            return
        # OpenCV hands out a layer's first top only: the others are reached through identities.
        message.top.extend(f"{top}_raw" for top in self.tops)
        yield message
        for top in self.tops:
            yield LayerParameter(name=top, type="Split", bottom=[f"{top}_raw"], top=[top])


def _steps(plan: Plan) -> tuple[list[_Step], dict[str, str]]:
    """The layers as steps; and for each blob but inputs and splits' copies the name of its last top."""
    steps, names, last_top = [], {}, {}
    for i, layer in enumerate(plan.layers):
        if layer.type in FED:
            names.update({top: _input(plan.blobs[top]) for top in layer.tops})
        elif layer.type == "Split":
            names.update(dict.fromkeys(layer.tops, names[layer.bottoms[0]]))
        else:
            one = len(layer.tops) == 1
            tops = tuple(f"layer{i}" if one else f"layer{i}_{k}" for k in range(len(layer.tops)))
            steps.append(_Step(f"layer{i}", layer, tuple(names[b] for b in layer.bottoms), tops))
            names.update(zip(layer.tops, tops, strict=True))
            last_top.update({plan.blobs[blob]: top for blob, top in zip(layer.tops, tops, strict=True)})
    return steps, last_top


def _input(blob: str) -> str:
    return f"input {blob}"


def _weights(steps: Sequence[_Step], weights: Held) -> list[LayerWeights]:
    return [
        LayerWeights(step.name, step.plan.type, list(weights[step.plan.index]))
        for step in steps
        if step.plan.index in weights
    ]


def _text(steps: Sequence[_Step], inputs: Mapping[str, np.ndarray]) -> str:
    net = NetParameter(
        input=[_input(name) for name in inputs],
        input_shape=[BlobShape(dim=array.shape) for array in inputs.values()],
        layer=[message for step in steps for message in step.messages()],
    )
    # An unknown field ends OpenCV's reading without a word, so this one goes by the name that it knows.
    return text_format.MessageToString(net).replace("round_mode: FLOOR", "ceil_mode: false")


# ---- running it, and finding what OpenCV cannot run


def _forward(
    steps: Sequence[_Step], inputs: Mapping[str, np.ndarray], model: str, wanted: Collection[str]
) -> dict[str, np.ndarray]:
    tops = [top for step in steps for top in step.tops if top in wanted]
    if not tops:
        return {}
    read = {name for step in steps for name in step.reads}
    inputs = {name: array for name, array in inputs.items() if _input(name) in read}
    text = np.frombuffer(_text(steps, inputs).encode(), np.uint8)
    net = cv2.dnn.readNetFromCaffe(text, np.fromfile(model, np.uint8))
    net.enableFusion(False)
    net.enableWinograd(False)
    for name, array in inputs.items():
        net.setInput(array, _input(name))
    return dict(zip(tops, net.forward(tops), strict=True))


def _without(steps: Sequence[_Step], refused: Mapping[str, str]) -> tuple[list[_Step], dict[str, str]]:
    """The steps that are left, and the refused ones together with whatever reads from them."""
    carried: list[_Step] = []
    refused, lost = dict(refused), dict[str, str]()
    for step in steps:
        source = next((lost[name] for name in step.reads if name in lost), None)
        if source is not None:
            refused.setdefault(step.name, f'it comes after "{source}"')
        if step.name in refused:
            lost.update(dict.fromkeys(step.tops, source or step.plan.name))
        else:
            carried.append(step)
    return carried, refused


def _culprit(
    steps: Sequence[_Step], inputs: Mapping[str, np.ndarray], model: str, error: cv2.error
) -> dict[str, str]:
    """The step to blame, with the reason: the one that the error names, or else the first that fails."""
    named = re.search(r'layer "(layer\d+)', str(error))
    if named:
        return {named[1]: _reason(error)}
    works, fails = 0, len(steps)
    while fails - works > 1:
        middle = (works + fails) // 2
        try:
            _forward(steps[:middle], inputs, model, steps[middle - 1].tops)
            works = middle
        except cv2.error as earlier:
            fails, error = middle, earlier
    return {steps[fails - 1].name: _reason(error)}


def _reason(error: cv2.error) -> str:
    if "Can't create layer" in str(error):
        return "OpenCV has no such layer type"
    text = re.sub(r"in function '.*?'", "", str(error).partition("error: ")[2])
    return f"OpenCV says {' '.join(text.split())}"


def _known_limit(layer: LayerPlan) -> str:
    """What OpenCV's importer is known to pass over in silence; "" for a layer that it heeds."""
    if layer.type == "Python":
        return "" if is_mask(layer.param) else "OpenCV runs no script's layer"
    interp = layer.param.interp_param
    resized = interp.shrink_factor != 1 or interp.pad_beg or interp.pad_end
    unheeded = {
        "InnerProduct": (layer.param.inner_product_param.transpose, "transpose"),
        "Interp": (resized, "shrink_factor, pad_beg and pad_end"),
        "LRN": (layer.param.lrn_param.k != 1, "k"),
        "Swish": (layer.param.swish_param.beta != 1, "beta"),
    }
    passed_over, what = unheeded.get(layer.type, (False, ""))
    return f"OpenCV does not heed {what}" if passed_over else ""


# ---- SeeNet's masks


class _Mask:
    """One of the port's masks as OpenCV calls custom layers. Bottoms: features, scores, labels."""

    module: type[nn.Module]

    def __init__(self, params: dict, blobs: list):
        self.mask = self.module(**ast.literal_eval(params["param_str"].strip()))

    def getMemoryShapes(self, inputs: list) -> list:
        return [inputs[0]]

    def forward(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [self.mask(*(torch.from_numpy(x) for x in inputs)).numpy()]


@contextlib.contextmanager
def custom_layers() -> Iterator[None]:
    """OpenCV's custom layers are the whole process's, hence not for longer than needed."""
    types = {layer: type(layer, (_Mask,), {"module": module}) for (_, layer), module in MASKS.items()}
    for name, cls in types.items():
        cv2.dnn_registerLayer(name, cls)
    try:
        yield
    finally:
        for name in types:
            cv2.dnn_unregisterLayer(name)
