"""SeeNet, or the net of a prototxt, as an ONNX graph, a TorchScript or a torch.export program.

Each file carries the net's text, its class names and the preprocessing (`weights.metadata`). What it computes is the
port's forward in evaluation mode, C-ReLU included; there is no gradient in it.
"""

import contextlib
import io
import logging
import math
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
import torch.fx.experimental._config as symbolic_shapes
import torch.nn.functional as F
from google.protobuf import text_format
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import prototxt
from port.attention.maps import MEAN_BGR
from port.export.settings import OPSET
from port.models.crelu import normalised_attention
from port.models.seenet import SeeNet
from port.net import CaffeNet
from port.voc.classes import CLASSES
from prototxt.errors import InputError, need_packages
from prototxt.plan import LayerPlan
from prototxt.read import read_net
from weights.files import atomic_path
from weights.metadata import net_metadata

SEENET_OUTPUTS = ("score_b1", "score_b2", "attention")
"""Of an exported SeeNet: Caffe's blobs, and (num, 1, h, w) in [0, 1], what its C-ReLU thresholds."""

_LARGEST = 2**31 - 2**20
"""Bytes of weights in an ONNX file: a protobuf message of less than 2 GiB."""

PREPROCESSING = {
    "colours": "BGR",
    "range": [0, 255],
    "resize": {"height": 256, "width": 256, "interpolation": "bicubic (OpenCV's INTER_CUBIC, on float64)"},
    "then_subtract": list(MEAN_BGR),
    "layout": "num, 3, height, width; float32",
}
"""SeeNet's, as released."""


def export_onnx(
    model: SeeNet | CaffeNet,
    path: str | os.PathLike,
    *,
    opset: int = OPSET,
    example: Sequence[Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an ONNX graph of standard operators; `metadata` becomes its metadata_props.

    SeeNet's inputs are data (num, 3, height, width) and label (num, classes), float32, its outputs
    `SEENET_OUTPUTS`; batch, height and width are free. A CaffeNet's are called as its blobs
    (`deployed_blobs`) and have the shapes of `example`: Caffe's layers, too, are set up for the prototxt's shapes.

    Args:
        opset: 18 or more.
        example: a CaffeNet's inputs; without, zeros of the prototxt's shapes.
        metadata: as `net_metadata` gives it; without, `seenet_metadata` for SeeNet and nothing for others.

    Raises:
        InputError: onnx or onnxscript missing, an opset that is not available, a layer that ONNX cannot hold (by
            name), more than 2 GB of weights, a file that cannot be written.
    """
    need_packages("onnx", "onnxscript", purpose="ONNX files")
    _check_opset(opset)
    _check_size(model, path)
    job = _job(model, example, metadata)
    with atomic_path(path) as beside, _quiet():
        captured = _capture(job)
        with _naming_the_node(job):
            program = torch.onnx.export(
                captured,
                dynamo=True,
                input_names=job.inputs,
                output_names=job.outputs,
                dynamic_shapes=job.free_axes,
                opset_version=opset,
                # Its rewriter takes whatever is within 1e-8 of 0 for 0, such as what C-ReLU adds to its
                # denominator: a flat score map's attention would be 0 / 0.
                optimize=False,
                verbose=False,
            )
        if program.model.opset_imports[""] != opset:
            raise InputError(f"opset {opset}: this net cannot be written in it: give {OPSET}")
        _tidy(program.model)
        program.model.metadata_props.update(job.metadata)
        program.save(beside, external_data=False)


def export_torchscript(
    model: SeeNet | CaffeNet,
    path: str | os.PathLike,
    *,
    example: Sequence[Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a TorchScript for torch.jit.load; `metadata` becomes its extra files. Arguments as `export_onnx`."""
    job = _job(model, example, metadata)
    with atomic_path(path) as beside, _quiet():
        # What a CaffeNet's layers ask of shapes, tracing would answer with tensors: it is captured first.
        is_net = isinstance(job.module, CaffeNet)
        module = _capture(job).module(check_guards=False) if is_net else job.module
        traced = torch.jit.trace(module, job.example)
        _write(beside, lambda file: torch.jit.save(traced, file, _extra_files=job.metadata))


def export_pt2(
    model: SeeNet | CaffeNet,
    path: str | os.PathLike,
    *,
    example: Sequence[Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a program for torch.export.load; `metadata` becomes its extra files. Arguments as `export_onnx`."""
    job = _job(model, example, metadata)
    with atomic_path(path) as beside, _quiet():
        program = _capture(job)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # it names this machine's folders
        program.example_inputs = None
        _write(beside, lambda file: torch.export.save(program, file, extra_files=job.metadata))


def _write(path: Path, save: Callable[[IO[bytes]], object]) -> None:
    """Save in memory first: PyTorch's own writer of archives ends the process where a disk is full."""
    file = io.BytesIO()
    save(file)
    path.write_bytes(file.getbuffer())


EXPORTERS: dict[str, Callable[..., None]] = {
    "onnx": export_onnx,
    "torchscript": export_torchscript,
    "pt2": export_pt2,
}


def seenet_metadata(model: SeeNet) -> dict[str, str]:
    """The entries for a SeeNet: the deploy prototxt with its own widths and thresholds, classes, preprocessing."""
    classes = CLASSES if model.num_classes == len(CLASSES) else ()
    return net_metadata(seenet_prototxt(model), classes, PREPROCESSING)


def seenet_prototxt(model: SeeNet) -> str:
    """The released deploy net's text, with this model's channels and C-ReLU thresholds.

    Raises:
        InputError: a model without S_B.
    """
    if not model.erasing:
        raise InputError("these weights are of S_A alone: export them with --prototxt and a net without S_B")
    net = read_net(Path(prototxt.__file__).parent / "seenet" / "deploy.prototxt")
    for layer in net.layer:
        if layer.type == "Convolution":
            layer.convolution_param.num_output = getattr(model, layer.name).out_channels
        elif layer.type == "Python":
            layer.python_param.param_str = str({"maxt": model.mask_b2.maxt, "mint": model.mask_b2.mint})
    return text_format.MessageToString(net)


def deployed_blobs(net: CaffeNet) -> list[str]:
    """What an exported CaffeNet gives: its outputs, and what those that `squashed` names are made of."""
    outputs = {net.plan.blobs[i] for i in net.plan.outputs}
    wanted = outputs | {bottom for _, bottom in squashed(net).values()}
    return [name for name in net.plan.blobs if name in wanted]


def squashed(net: CaffeNet) -> dict[str, tuple[nn.Module, str]]:
    """Outputs that are probabilities: of each the layer that makes it, and the scores that it reads."""
    return {
        net.plan.blobs[plan.tops[0]]: (net.layers[plan.index], net.plan.blobs[plan.bottoms[0]])
        for plan in net.plan.layers
        if plan.type in ("Softmax", "Sigmoid") and plan.tops[0] in net.plan.outputs and not plan.in_place
    }


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# ---- what is exported


class _DeployedSeeNet(SeeNet):
    """A SeeNet in evaluation mode that returns `SEENET_OUTPUTS`, over the same modules: files keep Caffe's names."""

    def __init__(self, model: SeeNet):
        nn.Module.__init__(self)
        vars(self).update(vars(model))
        self.training = False

    def forward(self, data: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        score_b1, score_b2 = super().forward(data, label)
        return score_b1, score_b2, normalised_attention(score_b1, label)


class _DeployedNet(CaffeNet):
    """A CaffeNet in evaluation mode that returns `deployed_blobs`, over the same layers."""

    def __init__(self, net: CaffeNet):
        nn.Module.__init__(self)
        vars(self).update(vars(net))
        self.training = False
        self.gradient = "exact"  # there is none: nothing is to be kept for it

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(super().forward(*inputs, blobs=deployed_blobs(self)).values())


@dataclass
class _Job:
    module: nn.Module
    example: tuple[Tensor, ...]
    inputs: list[str]
    outputs: list[str]
    free_axes: tuple[dict[int, str], ...] | None
    metadata: dict[str, str]


def _job(
    model: SeeNet | CaffeNet, example: Sequence[Tensor] | None, metadata: Mapping[str, str] | None
) -> _Job:
    if isinstance(model, SeeNet):
        entries = seenet_metadata(model) if metadata is None else dict(metadata)
        weight = model.score_b1.weight
        data = torch.zeros(2, 3, 70, 90).to(weight)
        label = torch.zeros(2, model.num_classes).to(weight)
        free = ({0: "num", 2: "height", 3: "width"}, {0: "num"})
        return _Job(
            _DeployedSeeNet(model), (data, label), ["data", "label"], list(SEENET_OUTPUTS), free, entries
        )
    if example is None:
        example = [torch.zeros(model.blob_shapes[name]) for name in model.inputs]
    return _Job(
        _DeployedNet(model), tuple(example), model.inputs, deployed_blobs(model), None, dict(metadata or {})
    )


# ---- capturing


def _capture(job: _Job) -> torch.export.ExportedProgram:
    axes = job.free_axes and tuple(dict.fromkeys(free, torch.export.Dim.AUTO) for free in job.free_axes)
    # By default a program is told apart from what it would be on axes of length 1, and refuses those.
    as_any_size = symbolic_shapes.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]  # torch adds it
    with _naming_the_layer(job), _StandardOperators(), as_any_size:
        return torch.export.export(job.module, job.example, dynamic_shapes=axes)


class _StandardOperators(TorchFunctionMode):
    """What the formats have no operator for, in those that they have."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.mkldnn_convolution:  # the port's choice for small maps
            images, weight, bias, pad, stride, dilation, groups = args
            return F.conv2d(images, weight, bias, stride, pad, dilation, groups)
        if function in (F.avg_pool2d, F.avg_pool3d) and kwargs.get("divisor_override") == 1:
            images, kernel, stride = args  # the exporter to ONNX drops the divisor without a word
            return function(images, kernel, stride) * math.prod(kernel)
        return function(*args, **kwargs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without gradients, and without what the exporters say of themselves and of packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _naming_the_layer(job: _Job) -> Iterator[None]:
    """An error of a capture, as an InputError that names the layer which was run last."""
    if not isinstance(job.module, CaffeNet):
        yield
        return
    running: list[LayerPlan] = []
    hooks = [
        job.module.layers[plan.index].register_forward_pre_hook(lambda *_, plan=plan: running.append(plan))
        for plan in job.module.plan.layers
    ]
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not running:
            raise
        raise _refusal(running[-1], error) from error
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _naming_the_node(job: _Job) -> Iterator[None]:
    """An error of the conversion to ONNX, as an InputError that names the layer where it can be told."""
    try:
        yield
    except Exception as error:
        causes = [error]
        while causes[-1].__cause__:
            causes.append(causes[-1].__cause__)
        plan = next(filter(None, (_layer_in_hand(job, cause) for cause in causes)), None)
        if plan is None:
            raise InputError(f"cannot be written as ONNX: {first_line(causes[-1])}") from error
        raise _refusal(plan, causes[-1]) from error


def _layer_in_hand(job: _Job, error: BaseException) -> LayerPlan | None:
    """The layer whose node the exporter was converting: its errors name nodes, but by names of its own."""
    plans = {plan.name: plan for plan in job.module.plan.layers} if isinstance(job.module, CaffeNet) else {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("node")
        if isinstance(node, torch.fx.Node):
            modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
            return next((plans[path] for path in modules if path in plans), None)
    return None


def _refusal(plan: LayerPlan, error: Exception) -> InputError:
    return InputError(
        f'{plan.where}: layer "{plan.name}" ({plan.type}) cannot be exported: {first_line(error)}'
    )


# ---- ONNX


def _check_opset(opset: int) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise InputError(f"opset {opset}: {OPSET} to {newest} can be written: give one of these")


def _check_size(model: nn.Module, path: str | os.PathLike) -> None:
    size = sum(weight.nbytes for weight in model.state_dict().values())
    if size > _LARGEST:
        raise InputError(f"{path}: an ONNX file holds up to 2 GB, the weights are {size / 1e9:.1f} GB")


def _tidy(model: Any) -> None:
    """Nothing twice, nothing without effect, nothing about the machine on which it was written."""
    from onnx_ir.passes import common

    for step in (
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        step(model)
