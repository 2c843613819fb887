"""Stages of long work: each in a folder of its own, passed over while it is current, resumed when it was cut off."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from google.protobuf import text_format

import port
from port.caffe_layers.voc_data import settings_of
from port.last_resort import Stopped
from port.training.snapshots import read_snapshot
from prototxt import read_net, read_solver
from prototxt.caffe_pb2 import NetParameter, SolverParameter
from prototxt.errors import InputError
from prototxt.files import read_text, sha256_of
from weights.files import only_writer, write_json, write_text
from weights.progress import ProgressLines, progress_bar

STAGE = "stage.json"
TRAIN = Path(port.__file__).parent / "train_caffe_equiv.py"

_ITERATION = re.compile(r"\] Iteration (\d+)")


def run_stage(name: str, folder: Path, settings: Mapping[str, Any], work: Callable[[], None]) -> str:
    """Do `work`, whose results lie in `folder`, unless they are there already and made with these settings.

    Results of other settings are thrown away first; half-made ones are left to `work`, which is to go on.

    Args:
        settings: all that the results depend on, as JSON has it; the keys that earlier stages gave among it.

    Returns:
        A key for later stages' settings: it changes whenever these settings do.

    Raises:
        InputError: a folder with files that no stage made, or that another process is at; whatever `work` raises.
    """
    with only_writer(folder.parent / f".{folder.name}.lock", f"{folder}"):
        return _run_stage(name, folder, settings, work)


def _run_stage(name: str, folder: Path, settings: Mapping[str, Any], work: Callable[[], None]) -> str:
    told = json.loads(json.dumps(settings))
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    before = _read(folder)
    if before == {"settings": told, "done": True}:
        typer.echo(f"{name}: current")
        return key
    if before.get("settings", told) != told:
        shutil.rmtree(folder)
    _write(folder, told, done=False)
    started = time.monotonic()
    work()
    _write(folder, told, done=True)
    typer.echo(f"{name}: {time.monotonic() - started:.0f} s")
    return key


def train_in(
    folder: Path,
    solver: Path,
    weights: Path | None,
    data: Mapping[str, str],
    seed: int | None = None,
    iterations: int | None = None,
    device: str = "cpu",
) -> Path:
    """Train by `train_caffe_equiv.py` in a process of its own, from the newest snapshot in `folder` on.

    The net and the solver are written there as they run, with their data layers pointed to `data`, beside
    `train.log`.

    Args:
        solver: a solver prototxt whose net reads by a VOCDataLayer or ImageSegData.
        weights: to start from, by layer name.
        data: "list" and "images" for a VOCDataLayer, "source" for ImageSegData, whose paths are then whole.
        seed: in place of the solver's and of the data layer's.
        iterations: in place of `max_iter`; steps move in proportion.

    Returns:
        The last caffemodel.

    Raises:
        InputError: what training says last, where it fails.
    """
    param = _solver(solver, folder, data, seed, iterations)
    final = folder / f"net_iter_{param.max_iter}.caffemodel"
    if _holds_something(final):
        return final
    command = [
        sys.executable,
        str(TRAIN),
        "--solver",
        "solver.prototxt",
        "--device",
        device,
        "--palette-labels",
    ]
    newest = _newest_whole(folder)
    if newest:
        command += ["--snapshot", newest.name]
    elif weights:
        command += ["--weights", str(weights.resolve())]
    last = ""
    with (
        open(folder / "train.log", "a", encoding="utf-8") as log,
        progress_bar("iterations") as bar,
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.DEVNULL,  # its own lines on rate and time left
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        what = f"training {folder.parent.name}/{folder.name}"
        task = bar.add_task(what, total=param.max_iter)
        done = _iteration(newest) if newest else 0
        lines = ProgressLines(
            what, param.max_iter, "iterations", lambda told: typer.echo(told, err=True), done
        )
        try:
            for line in process.stderr:
                log.write(line)
                log.flush()
                last = line.strip() or last
                if at := _ITERATION.search(line):
                    bar.update(task, completed=int(at[1]))
                    if bar.disable:
                        lines.update(int(at[1]))
        except (KeyboardInterrupt, Stopped):
            bar.update(task, description="stopping: writing a snapshot")
            # It may have it from the terminal already: one is as good as two.
            process.send_signal(signal.SIGINT)
            log.write(process.stderr.read())
            raise
    if process.returncode or not _holds_something(final):
        raise InputError(
            f"{folder}: training stopped: {last.removeprefix('error: ')}: correct that, and run this again"
        )
    return final


def losses(folder: Path) -> list[tuple[int, float]]:
    """(iteration, smoothed loss) as `train.log` in a training's folder has it.

    Raises:
        InputError: there is none.
    """
    try:
        text = (folder / "train.log").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise _missing(folder, "train.log") from error
    found = re.findall(r"\] Iteration (\d+) \(.*\), loss = (\S+)", text)
    return sorted({int(at): float(loss) for at, loss in found}.items())


def last_weights(folder: Path) -> Path:
    """The caffemodel of the highest iteration in a training's folder.

    Raises:
        InputError: there is none.
    """
    found = filter(_holds_something, folder.glob("net_iter_*.caffemodel"))
    last = max(found, key=_iteration, default=None)
    if last is None:
        raise _missing(folder, "net_iter_*.caffemodel")
    return last


def solver_key(solver: Path) -> list[str | None]:
    """What a solver's file and its net's hold, for a stage's settings."""
    return [file_key(solver), file_key(_net_of(read_solver(solver), solver))]


def file_key(path: Path | None) -> str | None:
    """What a file holds, for a stage's settings."""
    return None if path is None else sha256_of(path)[:16]


def training_text(
    path: Path, data: Mapping[str, str], seed: int | None = None, iterations: int | None = None
) -> tuple[SolverParameter, NetParameter]:
    """A solver and its net as `train_in` runs them; `data`, `seed` and `iterations` are as there.

    Raises:
        InputError: a file that cannot be read, a net without a data layer that can be pointed to `data`.
    """
    param = read_solver(path)
    file = _net_of(param, path)
    if not file.is_file():
        raise InputError(f"{path}: its net, {file}, is not there: paths count from the current folder")
    net = read_net(file)
    _point(net, data, seed, path)
    param.snapshot_prefix = "net"
    if seed is not None:
        param.random_seed = seed
    if iterations is not None:
        steps = [step * iterations // param.max_iter for step in param.stepvalue]
        param.stepvalue[:] = steps
        param.snapshot = max(1, min(param.snapshot, iterations))
        param.max_iter = iterations
    return param, net


def _solver(
    path: Path, folder: Path, data: Mapping[str, str], seed: int | None, iterations: int | None
) -> SolverParameter:
    """Write `solver.prototxt` and `train.prototxt`; the solver."""
    param, net = training_text(path, data, seed, iterations)
    setattr(param, _net_field(param), "train.prototxt")
    for name, message in (("train.prototxt", net), ("solver.prototxt", param)):
        write_text(folder / name, text_format.MessageToString(message))
    return param


def _net_field(param: SolverParameter) -> str:
    return "train_net" if param.HasField("train_net") else "net"


def _net_of(param: SolverParameter, solver: Path) -> Path:
    """The net's file. Its path counts from the current folder, as Caffe has it; our own also from our project's."""
    net = getattr(param, _net_field(param))
    if not net:
        raise InputError(f"{solver}: names no net or train_net: give its file")
    ours = Path(port.__file__).parent.parent / net
    return Path(net) if Path(net).is_file() or not ours.is_file() else ours


def _point(net: NetParameter, data: Mapping[str, str], seed: int | None, solver: Path) -> None:
    """Point the data layers to `data`."""
    found = False
    for layer in net.layer:
        if layer.type == "Python" and layer.python_param.layer == "VOCDataLayer":
            settings = settings_of(layer.python_param.param_str, InputError)
            settings |= {name: data[name] for name in ("list", "images") if name in data}
            settings |= {} if seed is None else {"seed": seed}
            layer.python_param.param_str = repr(settings)
            found = True
        elif layer.type == "ImageSegData":
            layer.image_data_param.root_folder = ""
            layer.image_data_param.source = data.get("source", "")
            found = True
    if not found:
        raise InputError(f"{solver}: its net reads no images by a VOCDataLayer or ImageSegData")


def _newest_whole(folder: Path) -> Path | None:
    """The newest snapshot that can be read: a loss of power may have left half of the last one, or nothing of it."""
    for path in sorted(folder.glob("net_iter_*.solverstate"), key=_iteration, reverse=True):
        try:
            read_snapshot(path)
        except InputError as error:
            typer.echo(f"passed over: {error}", err=True)
        else:
            return path
    return None


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _iteration(snapshot: Path) -> int:
    last = snapshot.stem.split("_")[-1]
    return int(last) if last.isascii() and last.isdecimal() else -1


def _missing(folder: Path, name: str) -> InputError:
    return InputError(f"{folder}: {name} is missing: delete the folder to have it made again")


def _read(folder: Path) -> dict[str, Any]:
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    try:
        kept = json.loads(read_text(folder / STAGE))
        return {name: kept[name] for name in ("settings", "done")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder}: holds files, but no {STAGE} that says what made them: name another folder"
        ) from error


def _write(folder: Path, settings: dict[str, Any], done: bool) -> None:
    write_json(folder / STAGE, {"settings": settings, "done": done}, sync=True)
