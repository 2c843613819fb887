"""A net for other runtimes, each written file loaded again and held against the port."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from torch import Tensor

from port.attention.maps import prepared_views
from port.export.check import TOLERANCE, Case, Checked, check, load, net_cases, seenet_cases
from port.export.settings import ExportSettings
from port.export.writers import EXPORTERS, seenet_metadata, squashed
from port.images import read_image
from port.models.seenet import SeeNet
from port.net import CaffeNet
from port.net_inputs import complete_inputs, published_inputs
from port.pycaffe import TEST, Net
from prototxt.errors import InputError, printable
from prototxt.files import read_text
from runtime.data.output import no_output_files
from weights import check_finite, read_weights
from weights.files import atomic_path
from weights.formats import write_weights
from weights.metadata import net_metadata, parsed_metadata
from weights.progress import plain_console, progress_bar


@dataclass
class _Subject:
    """What is exported.

    Attributes:
        cases: what the files are held against.
        thresholds: C-ReLU's, where the positions that it decides on are among the outputs.
    """

    model: SeeNet | CaffeNet
    metadata: dict[str, str]
    cases: list[Case]
    thresholds: tuple[float, float] | None = None


class _BeyondTolerance(Exception):
    """Raised inside `atomic_path`, so that the file is not kept."""


def run_export(asked: ExportSettings) -> bool:
    """Write the files, check each and print what was found; whether all are within the tolerance.

    Raises:
        InputError: whatever is wrong with the net, the weights or the images, or cannot be written.
    """
    photographs = {path.name: read_image(path, asked.to_bgr) for path in asked.images}
    with progress_bar() as bar, no_output_files():
        tick = _ticker(bar, 1 + len(asked.files))
        subject = _subject(asked, photographs)
        tick()
        results = {
            kind: _export(subject, kind, path, {"opset": asked.opset} if kind == "onnx" else {}, tick)
            for kind, path in asked.files.items()
        }
    console = plain_console()
    if results:
        _print(
            results, asked.files, subject.cases, console if console.is_terminal else plain_console(width=110)
        )
    if asked.safetensors is not None:
        write_weights(asked.safetensors, read_weights(asked.weights), metadata=subject.metadata)
        console.print(
            f"{asked.safetensors}: weights, with {', '.join(subject.metadata)}",
            soft_wrap=True,
            highlight=False,
        )
    return all(found.within for found, _ in results.values())


def _subject(asked: ExportSettings, photographs: dict[str, np.ndarray]) -> _Subject:
    if asked.prototxt is None:
        return _seenet(asked.weights, photographs, asked.test_size, asked.seed, asked.maxt, asked.mint)
    return _net(asked, asked.prototxt, photographs)


def _seenet(
    weights: Path, photographs: dict[str, np.ndarray], test_size: int, seed: int, maxt: float, mint: float
) -> _Subject:
    model = SeeNet.from_caffemodel(weights, maxt=maxt, mint=mint)
    views = {name: prepared_views(photo, test_size, flip=True) for name, photo in photographs.items()}
    return _Subject(model, seenet_metadata(model), seenet_cases(model, views, seed), (maxt, mint))


def _net(asked: ExportSettings, prototxt: Path, photographs: dict[str, np.ndarray]) -> _Subject:
    source = read_weights(asked.weights, with_empty=True)
    check_finite(source, asked.weights)
    modules, seed = asked.allow_modules, asked.seed
    net = CaffeNet(prototxt, allow_modules=modules)
    net.copy_weights(source, str(asked.weights))
    shaped = Net(str(prototxt), TEST, allow_modules=modules)  # keeps the shapes of what it is first given
    draws: dict[str, list[Tensor]] = {}
    for name, photo in list(photographs.items())[:1]:
        given = published_inputs(prototxt, photo, None, asked.test_size, modules)
        draws[name] = _drawn(shaped, net, given, seed, str(prototxt))
    for draw in (seed, seed + 1):
        draws[f"random, seed {draw}"] = _drawn(shaped, net, {}, draw, str(prototxt))
    text = read_text(prototxt, errors="replace")
    return _Subject(net, net_metadata(text), net_cases(net, draws))


def _drawn(
    shaped: Net, net: CaffeNet, given: Mapping[str, np.ndarray], seed: int, where: str
) -> list[Tensor]:
    arrays = complete_inputs(shaped, net.plan, given, seed, where)
    return [torch.from_numpy(array.copy()) for array in arrays.values()]


def _export(
    subject: _Subject, kind: str, path: Path, extra: dict[str, int], tick: Callable[[], None]
) -> tuple[Checked, int]:
    """Write one file and check it, under another name until it is found to be within.

    Returns:
        What was found, and the file's bytes.
    """
    is_net = isinstance(subject.model, CaffeNet)
    example = subject.cases[0].inputs if is_net else None
    made_of = squashed(subject.model) if is_net else None
    with contextlib.suppress(_BeyondTolerance), atomic_path(path) as beside:
        try:
            EXPORTERS[kind](subject.model, beside, example=example, metadata=subject.metadata, **extra)
        except InputError as error:  # which names the file beside
            raise InputError(str(error).replace(str(beside), str(path))) from error
        run, metadata = load(kind, beside)
        found, size = check(run, subject.cases, subject.thresholds, made_of), beside.stat().st_size
        if parsed_metadata(metadata) != parsed_metadata(subject.metadata):
            raise InputError(f"{path}: its metadata does not read back as it was written")
        if not found.within:
            raise _BeyondTolerance
    tick()
    return found, size


def _print(
    results: dict[str, tuple[Checked, int]], files: dict[str, Path], cases: Sequence[Case], console: Console
) -> None:
    table = Table("format", "file", "size", "output", "worst |Δ| of max", "on", "")
    for kind, (found, size) in results.items():
        table.add_section()
        start = (kind, printable(files[kind].name), f"{size / 1e6:.1f} MB")
        for output, (share, case) in found.worst.items():
            verdict = Text("within") if found.is_within(output) else Text("OUT", "bold red")
            verdict.append(", inherited" if output in found.inherited else "")
            table.add_row(*start, printable(output), f"{share:.1e}", case, verdict)
            start = ("", "", "")
    console.print(table)
    console.print(f"Held against the port, up to {TOLERANCE:.0e} of an output's maximum: {len(cases)} runs.")
    if any(found.inherited for found, _ in results.values()):
        console.print(
            "Inherited: the difference is larger, but within the tolerance on the file's own scores."
        )
    for kind, (found, _) in results.items():
        if found.positions:
            console.print(f"{kind}: C-ReLU positions that differ: {found.flips} of {found.positions}")
        if not found.within:
            console.print(f"{kind}: OUT: {files[kind]} was not written", style="bold red")


def _ticker(bar: Progress, total: int) -> Callable[[], None]:
    task = bar.add_task("export", total=total)
    return lambda: bar.advance(task)
