"""`seenet survey`: which of the nets below a folder are read, planned, built and run, and what the others lack.

seenet survey ~/old_models --html survey.html
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from port.own_options import AllowModule, Proto, load_own

if TYPE_CHECKING:
    from prototxt.caffe_pb2 import LayerParameter, NetParameter

GUESSES = (
    (3, 224, 224),
    (1, 28, 28),
    (3, 32, 32),
    (3, 360, 480),
    (3, 300, 300),
    (3, 321, 321),
    (3, 500, 500),
)
"""Channels, height and width for data layers whose settings tell no size: ImageNet's, MNIST's, CIFAR's, CamVid's, …"""

OUTCOMES = {
    "runs": "a forward pass was made",
    "built": "built, but the forward pass stops",
    "needs Python": "planned, but a Python layer's module must be allowed: --allow-module",
    "planned": "planned from its text, but it cannot be built",
    "refused": "a layer refuses its settings or shapes",
    "read": "read, but a layer or a field is missing",
    "not read": "not a text that this schema reads",
    "no net": "a solver, or a file without layers",
    "too slow": "stopped at the time limit",
    "too large": "stopped at the memory limit",
    "crashed": "a fault of ours: please report it",
}
"""Outcome → what it means, from best to worst."""

PLANNED = ("runs", "built", "needs Python", "planned")
"""The outcomes of a net that can be planned."""

_SUFFIXES = (".prototxt", ".pt")


@dataclass
class Surveyed:
    """How far one file came.

    Attributes:
        outcome: a key of `OUTCOMES`.
        phase: the one that came farthest; "" where none was tried.
        why: what stopped it, in one line; "" if nothing did.
        types, fields: what is missing, in any phase: layer types, and fields as "Type: path".
        seconds: of work on it.
    """

    path: str
    outcome: str
    phase: str = ""
    why: str = ""
    types: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    seconds: float = 0.0


def survey(
    paths: Sequence[Path],
    jobs: int = 1,
    seconds: float = 60,
    memory: int = 4 << 30,
    allow_modules: Sequence[str] = (),
    proto: str | None = None,
    done: Callable[[Surveyed], None] | None = None,
) -> list[Surveyed]:
    """Try each file in a process of its own.

    Args:
        jobs: how many processes at a time.
        seconds, memory: what each process may take; bytes.
        allow_modules: Python modules to import, for the nets' Python layers and for layer types of their own.
        proto: a fork's caffe.proto, for such types.
        done: told each file as it is finished, in any order.

    Returns:
        In the order of `paths`.
    """
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["port.net", "port.report.survey"])

    def attempt(path: Path) -> Surveyed:
        found = _in_a_process(context, path, seconds, (memory, allow_modules, proto))
        if done is not None:
            done(found)
        return found

    with ThreadPoolExecutor(jobs) as threads:
        return list(threads.map(attempt, paths))


def prototxts(folders: Sequence[Path]) -> list[Path]:
    """The text nets below the folders (or given themselves), sorted, each once.

    Raises:
        InputError: a folder that is not there, or none with such a file.
    """
    from prototxt.errors import InputError

    found: set[Path] = set()
    for folder in folders:
        if not folder.exists():
            raise InputError(f"{folder}: no such file or folder")
        files = [folder] if folder.is_file() else folder.rglob("*")
        found |= {path for path in files if path.is_file() and (path == folder or _may_be_text(path))}
    if not found:
        raise InputError(f"{', '.join(map(str, folders))}: no .prototxt file is below")
    return sorted(found)


def _may_be_text(path: Path) -> bool:
    if path.suffix not in _SUFFIXES:
        return False
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(4096)  # .pt is PyTorch's too
    except OSError:
        return False


# ---- One file, in its own process


def _in_a_process(
    context: multiprocessing.context.ForkServerContext | multiprocessing.context.SpawnContext,
    path: Path,
    seconds: float,
    settings: tuple,
) -> Surveyed:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(str(path), sender, *settings), daemon=True)
    start = time.monotonic()
    process.start()
    sender.close()
    last = Surveyed(str(path), "crashed", why="the process ended without a word")
    ended = False
    try:
        while not ended and receiver.poll(max(0, start + seconds - time.monotonic())):
            last, ended = receiver.recv()
    except EOFError:
        ended = True
        last.outcome, last.why = "crashed", f"the process ended while {last.why or 'starting'}"
    if not ended:
        last.outcome, last.why = "too slow", f"{seconds:g} s were over while {last.why or 'starting'}"
    process.kill()
    process.join()
    last.seconds = round(time.monotonic() - start, 2)
    return last


def _work(
    path: str, sender: Connection, memory: int, allow_modules: Sequence[str], proto: str | None
) -> None:
    """Try one file; send how far it is before each step, and the result at the end."""
    found = Surveyed(path, "crashed")
    from prototxt.limits import set_max_memory
    from runtime.data.output import no_output_files

    try:
        _limit_memory(memory)
        set_max_memory(memory)
        if allow_modules or proto:
            load_own(allow_modules, proto)
        with no_output_files():
            _try(found, allow_modules, lambda step: sender.send((_doing(found, step), False)))
    except MemoryError:
        found.outcome, found.why = "too large", f"it needs more than {memory >> 20} MiB"
    except BaseException as error:
        large = "can't allocate memory" in str(error) or "Cannot allocate" in str(error)
        found.outcome = "too large" if large else "crashed"
        found.why = _line(error) if not large else f"it needs more than {memory >> 20} MiB"
    sender.send((found, True))


def _doing(found: Surveyed, step: str) -> Surveyed:
    return Surveyed(found.path, "crashed", found.phase, step, found.types, found.fields)


def _limit_memory(memory: int) -> None:
    """Let this process take `memory` bytes more than it has."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return  # no such limit here
    limit = pages * os.sysconf("SC_PAGE_SIZE") + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _try(found: Surveyed, allow_modules: Sequence[str], tell: Callable[[str], None]) -> None:
    import logging

    from prototxt.caffe_pb2 import TEST, TRAIN, NetState, Phase
    from prototxt.errors import InputError
    from prototxt.layers.declare import LAYER_TYPES
    from prototxt.read import read_net
    from prototxt.unknown import missing, unknown_fields

    logging.disable()
    tell("reading it")
    try:
        net = read_net(found.path)
    except InputError as error:
        solver = "this is a solver" in str(error)
        found.outcome, found.why = "no net" if solver else "not read", _line(error)
        return
    if not net.layer:
        found.outcome, found.why = "no net", "it has no layers"
        return
    fields = {f"net: {field.path}" for field in unknown_fields(net)}
    types = set()
    for phase in (TEST, TRAIN):
        state = NetState()
        state.CopyFrom(net.state)
        state.phase = phase
        for layer in missing(net, state, LAYER_TYPES):
            types |= set() if layer.type_known else {layer.type}
            fields |= {f"{layer.type}: {field.path}" for field in layer.fields}
    found.types, found.fields = tuple(sorted(types)), tuple(sorted(fields))

    order = list(OUTCOMES)
    for phase in (TEST, TRAIN):
        outcome, why = _run(net, phase, found.path, allow_modules, tell)
        if found.outcome == "crashed" or order.index(outcome) < order.index(found.outcome):
            found.outcome, found.why, found.phase = outcome, why, Phase.Name(phase)
        if outcome == "runs":
            return


def _run(
    net: NetParameter, phase: int, where: str, allow_modules: Sequence[str], tell: Callable[[str], None]
) -> tuple[str, str]:
    """How far the net comes in one phase, and what stopped it."""
    import torch

    from port.net import CaffeNet
    from prototxt.caffe_pb2 import NetState
    from prototxt.errors import InputError
    from prototxt.layers.declare import LAYER_TYPES
    from prototxt.limits import TooLargeError
    from prototxt.plan import plan_net
    from prototxt.rules import layer_included
    from prototxt.unknown import missing, refuse_unknown

    torch.set_num_threads(1)
    state = NetState()
    state.CopyFrom(net.state)
    state.phase = phase
    try:
        tell("planning it")
        refuse_unknown(net)
        for lacking in missing(net, state, LAYER_TYPES):
            return "read", f'layer "{lacking.name}": {lacking.what}'
        if not any(layer_included(layer, state) for layer in net.layer):
            return "read", "the phase has no layers"
    except InputError as error:
        return "read", _line(error)
    try:
        plan_net(net, phase, where=where)
    except TooLargeError:
        pass  # a smaller batch may do
    except InputError as error:
        return "refused", _line(error)
    why = ""
    for batch in (1, None):
        try:
            tell("building it")
            small, taken = _small(net, phase, batch)
            built = CaffeNet(small, phase, allow_modules=allow_modules, where=where)
        except TooLargeError as error:
            return "too large", _line(error)
        except InputError as error:
            if "--allow-module" in str(error):
                return "needs Python", _line(error)
            why = why or _line(error) + taken
            continue
        try:
            tell("running it")
            with torch.no_grad():
                names = [built.plan.blobs[i] for i in built.plan.inputs]
                built(*(torch.zeros(built.blob_shapes[name]) for name in names))
        except InputError as error:
            return "built", _line(error) + taken
        return "runs", ""
    return "planned", why


def _small(net: NetParameter, phase: int, batch: int | None) -> tuple[NetParameter, str]:
    """The net with inputs in the place of its data layers, weights of zeros, and `batch` images in a pass.

    Where settings do not tell the size of the data, it is the first of `GUESSES` with which the net is planned. A net
    that is not planned with its DummyData as it is may be with `batch` items of that, too. And a remark on a guess.
    """
    from prototxt.errors import InputError
    from prototxt.limits import TooLargeError
    from prototxt.plan import plan_net

    found: list[tuple[NetParameter, str]] = []
    for shorter in (False, True):
        for guess in GUESSES:
            small, guessed = _with_inputs(net, phase, batch, guess)
            if shorter and not _shorten_dummies(small, batch):
                return found[0]
            found.append(
                (small, f' (the data of "{guessed}" taken as {"×".join(map(str, guess))})' * bool(guessed))
            )
            try:
                plan_net(small, phase)
                return found[-1]
            except TooLargeError:
                break
            except InputError:
                if not guessed:
                    break
    return found[0]


def _shorten_dummies(net: NetParameter, batch: int | None) -> bool:
    """Leave at most `batch` items of each DummyData; whether there was one with more."""
    shortened = False
    for layer in net.layer:
        for shape in layer.dummy_data_param.shape if layer.HasField("dummy_data_param") and batch else ():
            if len(shape.dim) and shape.dim[0] > batch:
                shape.dim[0], shortened = batch, True
    return shortened


def _with_inputs(
    net: NetParameter, phase: int, batch: int | None, guess: tuple[int, ...]
) -> tuple[NetParameter, str]:
    """The net with inputs in the place of its data layers, and a data layer whose size is a guess."""
    from prototxt.caffe_pb2 import LayerParameter, NetParameter, NetState
    from prototxt.layers.data import told_shapes
    from prototxt.rules import layer_included

    state = NetState()
    state.CopyFrom(net.state)
    state.phase = phase
    small, guessed = NetParameter(), ""
    small.CopyFrom(net)
    if batch is not None:
        small.ClearField("bn_stats_batch_size")  # of larger batches
    given = [s.dim for layer in net.layer if layer.type == "Input" for s in layer.input_param.shape]
    lead = {dims[0] for dims in given if len(dims) == 4}
    for layer in small.layer:
        _forget_fillers(layer)
        if batch is not None and layer.HasField("batch_norm_param"):
            layer.batch_norm_param.ClearField("stats_batch_size")
        if layer.bottom or layer.type in ("DummyData", "Parameter", "Python"):
            continue
        if not layer_included(layer, state):
            continue
        shapes = [list(s.dim) for s in layer.input_param.shape] if layer.type == "Input" else []
        if len(shapes) == 1:
            shapes = [list(shapes[0]) for _ in layer.top]
        for shape in shapes:
            if batch is not None and shape and shape[0] in lead:
                shape[0] = batch
        if not shapes:
            told = told_shapes(layer, batch=batch)
            if told is None:
                guessed, told = layer.name, told_shapes(layer, guess, batch) or []
            shapes = [list(shape) for shape in told]
        as_input = LayerParameter(name=layer.name, type="Input", top=layer.top)
        for shape in shapes:
            as_input.input_param.shape.add(dim=shape)
        layer.CopyFrom(_filled(as_input, _FILLED[layer.type]) if layer.type in _FILLED else as_input)
    return small, guessed


_FILLED = {"AnnotatedData": -1, "ImageGtData": 1}
"""Data layers whose last top holds boxes → the number that makes one row of them a box that does not count."""


def _filled(as_input: LayerParameter, last: float) -> LayerParameter:
    """Zeros, and in the last top `last`."""
    blobs = type(as_input)(name=as_input.name, type="DummyData", top=as_input.top)
    values = [0] * (len(as_input.top) - 1) + [last]
    for shape, value in zip(as_input.input_param.shape, values, strict=True):
        blobs.dummy_data_param.shape.add(dim=shape.dim)
        blobs.dummy_data_param.data_filler.add(type="constant", value=value)
    return blobs


def _forget_fillers(layer: LayerParameter) -> None:
    """Weights of zeros will do, and cost no random numbers."""
    for field, value in layer.ListFields():
        if field.name.endswith("_param") and field.type == field.TYPE_MESSAGE and not field.is_repeated:
            for inner, _ in value.ListFields():
                if inner.name in ("filler", "weight_filler", "bias_filler"):
                    value.ClearField(inner.name)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


# ---- The command


def survey_command(
    folders: Annotated[list[Path], typer.Argument(help="Folders with nets, or nets.", show_default=False)],
    jobs: Annotated[int, typer.Option(help="Files at a time.", min=1)] = 2,
    seconds: Annotated[float, typer.Option(help="What one file may take.", min=1)] = 60,
    memory: Annotated[int, typer.Option(help="What one file may take, in MiB.", min=64)] = 4096,
    allow_module: AllowModule = None,
    proto: Proto = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all results here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page here.")] = None,
) -> None:
    """Try every net below: which are read, planned, built and run, and what the others lack."""
    from weights.files import write_json, write_text
    from weights.progress import plain_console, progress_bar

    modules = load_own(allow_module, proto)
    paths = prototxts(folders)
    with progress_bar("files") as progress:
        task = progress.add_task("survey", total=len(paths))
        results = survey(paths, jobs, seconds, memory << 20, modules, proto, lambda _: progress.advance(task))
    if json_file is not None:
        write_json(json_file, [asdict(result) for result in results])
    if html_file is not None:
        write_text(html_file, _page(results))
    console = plain_console()
    if not console.is_terminal:
        console = plain_console(width=120)
    console.print(_planned(results))
    for table in _tables(results):
        console.print(table)


def _counted(results: Sequence[Surveyed]) -> tuple[Counter, Counter, Counter]:
    """Files by outcome, by missing type and by missing field."""
    types, fields = (
        Counter(name for result in results for name in names(result))
        for names in (lambda result: result.types, lambda result: result.fields)
    )
    return Counter(result.outcome for result in results), types, fields


def _rows(results: Sequence[Surveyed]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Three tables: a title, and rows of a name, a number of files and a remark."""
    from prototxt.forks import known_from

    outcomes, types, fields = _counted(results)
    return [
        ("Outcome", [(o, str(outcomes[o]), meaning) for o, meaning in OUTCOMES.items() if outcomes[o]]),
        ("Missing layer types", [(t, str(n), known_from(t)) for t, n in types.most_common()]),
        ("Missing fields", [(f, str(n), "") for f, n in fields.most_common()]),
    ]


def _planned(results: Sequence[Surveyed]) -> str:
    """How many of the nets can be planned, in a line."""
    nets = [result for result in results if result.outcome != "no net"]
    planned = sum(result.outcome in PLANNED for result in nets)
    return f"{planned} of {len(nets)} nets can be planned ({100 * planned / max(1, len(nets)):.0f} %)"


def _tables(results: Sequence[Surveyed]) -> list:
    from rich.markup import escape
    from rich.table import Table

    tables = []
    for title, rows in _rows(results):
        if rows:
            table = Table(title=title, title_justify="left", show_header=False)
            table.add_column(overflow="fold")
            table.add_column(justify="right", no_wrap=True)
            table.add_column(overflow="fold")
            for row in rows:
                table.add_row(*map(escape, row))
            tables.append(table)
    return tables


def _page(results: Sequence[Surveyed]) -> str:
    from port.report.pages import render, table

    tables = [table((title, "files", ""), rows) for title, rows in _rows(results) if rows]
    tables.append(table(("file", "outcome", "why"), [(r.path, r.outcome, r.why) for r in results]))
    template = Path(__file__).with_suffix(".html.jinja")
    return render(template, title="Survey", files=len(results), planned=_planned(results), tables=tables)
