"""A net as a folder of PyTorch code, held against `CaffeNet` before it is kept."""

import contextlib
import keyword
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader

from port.export.writers import PREPROCESSING
from port.net import CaffeNet
from port.net_inputs import masks_of
from port.translate.compare import TOLERANCE, Compared, compare, without_dropout
from port.translate.graph import Graph, graph_of
from port.translate.inputs import drawn_inputs, fed
from port.translate.rules import RULES
from port.translate.settings import TranslateSettings
from port.translate.writing import Header, Written, write_model
from port.voc.classes import CLASSES
from prototxt.caffe_pb2 import NetParameter, TransformationParameter
from prototxt.errors import InputError
from prototxt.plan import Plan
from prototxt.read import read_net
from runtime.data.output import no_output_files
from runtime.rng import set_random_seed
from weights import check_finite, read_weights
from weights.metadata import parsed_metadata
from weights.progress import plain_console
from weights.tensors import read_safetensors_metadata

_RECORDED = 1 << 18
"""Values of an output that check.npz holds at most."""


@no_output_files()
def run_translate(asked: TranslateSettings) -> bool:
    """Write the folder and print what was found; whether every blob is within the tolerance.

    Raises:
        InputError: whatever is wrong with the net or the weights, a layer without a counterpart, a folder that
            holds something.
    """
    _check_folder(asked.out)
    phase = 0 if asked.train else 1
    read = read_net(asked.prototxt)
    message = fed(read, phase, dict(asked.input_shapes))
    set_random_seed(asked.seed)
    net = without_dropout(CaffeNet(message, phase, where=str(asked.prototxt), gradient="exact"))
    _check_values(net.plan, asked.prototxt)
    graph = graph_of(net.plan)
    class_name = _class_name(asked, net.plan.name)
    skipped = _fill(net, asked)
    header = _header(asked, read, net, graph, class_name)
    blobs = {layer.plan.index: [blob.detach().numpy().copy() for blob in layer.blobs] for layer in net.layers}
    written = write_model(graph, header, blobs)
    inputs, found, outputs = _compared(net, graph, written, class_name, asked)
    out = [blob for blob in found if not blob.within]
    if not out:
        with _new_folder(asked.out) as folder:
            _write(folder, asked, graph, written, class_name, inputs, found, outputs, skipped)
    _print(asked, written, found, out, skipped)
    return not out


def _check_values(plan: Plan, where: Path) -> None:
    """Raises InputError for a blob without values, for which PyTorch's modules have rules of their own."""
    for name, shape in zip(plan.blobs, plan.shapes, strict=True):
        if 0 in shape:
            sizes = "×".join(map(str, shape))
            raise InputError(f'{where}: blob "{name}" of {sizes} holds no values: give sizes above 0')


def _check_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already: choose a new folder, or remove it")


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name when all is written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}): choose another folder") from error
    try:
        yield beside
        beside.chmod(0o755)
        if out.exists():
            out.rmdir()
        beside.rename(out)
    except OSError as error:
        raise InputError(f"{out}: writing failed ({error.strerror or error}): nothing was written") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _class_name(asked: TranslateSettings, net_name: str) -> str:
    """The class's name: as asked, or the net's, or the file's."""
    taken = {"Tensor", "F", "nn", "torch", *RULES}
    if asked.class_name:
        if keyword.iskeyword(asked.class_name) or asked.class_name in taken:
            raise InputError(f'--class-name "{asked.class_name}" has a meaning of its own: choose another')
        return asked.class_name
    for name in (net_name, asked.prototxt.stem, "Net"):
        parts = re.findall(r"[A-Za-z0-9]+", name)
        text = "".join(part[0].upper() + part[1:] for part in parts).lstrip("0123456789")
        if text and text not in taken and not keyword.iskeyword(text):
            return text
    return "CaffeNet"


def _fill(net: CaffeNet, asked: TranslateSettings) -> list[str]:
    """Load the weights, or draw what no filler drew; the file's layers that the net lacks."""
    if asked.weights is not None:
        source = read_weights(asked.weights, with_empty=True)
        check_finite(source, asked.weights)
        return net.copy_weights(source, str(asked.weights))
    generator = torch.Generator().manual_seed(asked.seed)
    norms = [layer for layer in net.layers if layer.plan.type == "BatchNorm"]
    with torch.no_grad():
        for layer in net.layers:
            blobs = layer.blobs
            seen = layer.plan.type in ("BatchNorm", "DataAugmentation")  # by passes; the others are learned
            if blobs and not seen and not blobs[0].any():
                fan_in = max(blobs[0][0].numel(), 1) if blobs[0].ndim else 1
                blobs[0].normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        hooks = [layer.register_forward_pre_hook(_take_statistics) for layer in norms]
        if hooks:
            inputs = drawn_inputs(net.plan, None, asked.seed)
            net.run({i: torch.from_numpy(inputs[net.plan.blobs[i]]) for i in net.plan.inputs})
        for hook in hooks:
            hook.remove()
    return []


def _take_statistics(layer: torch.nn.Module, bottoms: tuple[torch.Tensor, ...]) -> None:
    """Make a BatchNorm's statistics such that what it is about to get comes out with a mean square near 1.

    A tenth of the channels' own means: with all of it, a deep net of random weights would enlarge rounding errors.
    """
    (x,) = bottoms
    mean = 0.1 * x.mean((0, *range(2, x.ndim)))
    variance = x.square().mean().clamp(min=1e-3).expand_as(mean)
    for blob, value in zip(layer.blobs[:3], (mean, variance, torch.ones(1)), strict=True):
        blob.copy_(value)


def _header(
    asked: TranslateSettings, message: NetParameter, net: CaffeNet, graph: Graph, class_name: str
) -> Header:
    name = net.plan.name or asked.prototxt.stem
    kinds = "the training net" if asked.train else "the net"
    summary = (
        f"{_plain(name)}: {', '.join(map(_plain, graph.inputs))} to {', '.join(map(_plain, graph.outputs))}."
    )
    if len(summary) > 78:
        summary = f"{_plain(name)[:60]}: {len(graph.inputs)} inputs, {len(graph.outputs)} outputs."
    title = f"{_plain(name)[:40]}, {kinds} of {_plain(asked.prototxt.name)[:30]}."
    constants: dict[str, object] = {}
    known = _metadata(asked.weights)
    if masks_of(net.plan):
        known = {"classes": list(CLASSES), "preprocessing": PREPROCESSING, **known}
    transform = _transform(message, net.plan.phase)
    if transform:
        known.setdefault("preprocessing", transform)
    if "preprocessing" in known:
        constants["PREPROCESSING"] = known["preprocessing"]
    if "classes" in known:
        constants["CLASSES"] = tuple(known["classes"])
    if len(net.plan.loss_weights) > 1 or any(weight != 1 for weight in net.plan.loss_weights.values()):
        constants["LOSS_WEIGHTS"] = {
            net.plan.blobs[i]: float(f"{weight:.7g}") for i, weight in net.plan.loss_weights.items()
        }
    return Header(title, class_name, summary, constants)


def _plain(text: str) -> str:
    """Text that may stand in a docstring."""
    return re.sub(r"[^ -~]+", "?", text).replace("\\", "/").replace('"', "'")


def _metadata(weights: Path | None) -> dict[str, object]:
    if weights is None or weights.suffix.lower() != ".safetensors":
        return {}
    found = parsed_metadata(read_safetensors_metadata(weights))
    return {key: found[key] for key in ("classes", "preprocessing") if key in found}


def _transform(message: NetParameter, phase: int) -> dict[str, object]:
    """What the data layer of the phase does to its images."""
    for layer in message.layer:
        if layer.HasField("transform_param") and all(rule.phase == phase for rule in layer.include):
            param: TransformationParameter = layer.transform_param
            told: dict[str, object] = {"colours": "BGR"}
            if param.mean_value:
                told["then_subtract"] = [round(value, 6) for value in param.mean_value]
            if param.mean_file:
                told["then_subtract_file"] = param.mean_file
            if param.scale != 1:
                told["then_multiply"] = float(np.format_float_positional(np.float32(param.scale)))
            if param.crop_size:
                told["crop"] = param.crop_size
            if param.mirror:
                told["mirror"] = True
            return told
    return {}


def _compared(
    net: CaffeNet, graph: Graph, written: Written, class_name: str, asked: TranslateSettings
) -> tuple[dict[str, np.ndarray], list[Compared], dict[str, torch.Tensor]]:
    """Compare on a batch of one, or, where the net does not take that, on the prototxt's own."""
    single = len({net.plan.shapes[i][:1] for i in net.plan.inputs}) == 1 and net.plan.phase == 1
    for batch in (1, None) if single else (None,):
        inputs = drawn_inputs(net.plan, batch, asked.seed)
        try:
            return inputs, *compare(net, graph, written, class_name, inputs)
        except InputError:
            if batch is None:
                raise
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if batch is None:
                told = " ".join(f"{type(error).__name__}: {error}".split())
                raise InputError(
                    f"{asked.prototxt}: the code written for it does not run on blobs of its sizes ({told}): "
                    "run the net with CaffeNet instead"
                ) from error
    raise AssertionError


def _write(
    folder: Path,
    asked: TranslateSettings,
    graph: Graph,
    written: Written,
    class_name: str,
    inputs: dict[str, np.ndarray],
    found: list[Compared],
    outputs: dict[str, torch.Tensor],
    skipped: list[str],
) -> None:
    from safetensors.numpy import save_file

    steps = {name: max(1, -(-value.numel() // _RECORDED)) for name, value in outputs.items()}
    templates = Environment(loader=PackageLoader("port.translate", "."), trim_blocks=True, lstrip_blocks=True)
    facts = {
        "asked": asked,
        "class_name": class_name,
        "graph": graph,
        "found": found,
        "worst": max(found, key=lambda blob: blob.share, default=None),
        "tolerance": TOLERANCE,
        "places": written.places,
        "skipped": skipped,
        "steps": steps,
        "single": len(outputs) == 1,
        "drops": "AlwaysDropout(" in written.text or (asked.train and "Dropout" in written.text),
        "lines": len(written.text.splitlines()),
    }
    (folder / "model.py").write_text(written.text)
    save_file(written.state, folder / "model.safetensors")
    np.savez_compressed(
        folder / "check.npz",
        **{f"input/{name}": value for name, value in inputs.items()},
        **{
            f"output/{name}": value.detach().flatten()[:: steps[name]].numpy()
            for name, value in outputs.items()
        },
    )
    for name in ("README.md", "test_model.py"):
        (folder / name).write_text(templates.get_template(f"{name}.jinja").render(facts) + "\n")


def _print(
    asked: TranslateSettings, written: Written, found: list[Compared], out: list[Compared], skipped: list[str]
) -> None:
    console = plain_console(soft_wrap=True, highlight=False)
    if skipped:
        console.print(f"{asked.weights}: layers that the net lacks: {', '.join(skipped)}", markup=False)
    if out:
        console.print(
            f'OUT: blob "{out[0].blob}" is off by {out[0].share:.1e} of its maximum ({TOLERANCE:.0e} is allowed): '
            f"{asked.out} was not written",
            markup=False,
        )
        return
    worst = max(found, key=lambda blob: blob.share, default=None)
    told = f', worst "{worst.blob}" {worst.share:.1e} of its maximum' if worst else ""
    if asked.weights is None:
        console.print(
            "No weights given: they are random, by the fillers where the prototxt has them; BatchNorm's statistics are "
            "such that activations stay near 1."
        )
    console.print(
        f"{asked.out}/model.py: {len(written.text.splitlines())} lines; {len(found)} blobs within "
        f"{TOLERANCE:.0e} of CaffeNet's{told}",
        markup=False,
    )
