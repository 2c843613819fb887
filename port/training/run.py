"""A training run: the solver with its signals, log, progress bar and curves."""

import contextlib
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer

from port.ranks import joined_ranks, solver_rank
from port.training.caffe_log import CaffeLog
from port.training.loop import Solver
from port.training.net import TrainingNet
from port.training.snapshots import only_run
from port.training.solver_nets import NetSource
from prototxt.caffe_pb2 import SolverParameter
from prototxt.errors import InputError, need_packages
from weights.progress import ProgressLines, progress_bar

Observer = Callable[[str, int, dict[str, float]], None]


@dataclass(frozen=True)
class TrainSettings:
    """What `seenet train` asks of a run, beside what the solver's prototxt says.

    Attributes:
        solver: the solver's file, for messages; snapshot: a .solverstate to resume from, or "".
        iterations: stop after so many; None: at the solver's max_iter.
        device: "cpu", "cuda", or "" for what the solver_mode says.
        sigint_effect, sighup_effect: "stop", "snapshot" or "none".
        allow_modules: Python modules that the net may load.
        palette_labels: ImageSegData takes the indices of palette label images.
        tensorboard: folder for curves, or none.
        amp, tf32: faster, and no longer Caffe's numbers.
    """

    solver: str
    snapshot: str = ""
    iterations: int | None = None
    device: str = ""
    sigint_effect: str = "stop"
    sighup_effect: str = "snapshot"
    allow_modules: Collection[str] = ()
    palette_labels: bool = False
    tensorboard: Path | None = None
    amp: bool = False
    tf32: bool = False


def run_training(param: SolverParameter, settings: TrainSettings) -> None:
    """Train as `caffe train` does; under torchrun, together with its other processes.

    Raises:
        InputError: whatever is wrong with the net, its data, the weights, the snapshot or the device.
    """
    with joined_ranks(_device(settings.device, param)) as here:
        _train(param, settings, here)


def _train(param: SolverParameter, settings: TrainSettings, here: torch.device) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.tf32
    torch.backends.cudnn.deterministic = True  # the same seed, the same weights: docs/speed.md has the price
    log = CaffeLog(silent=solver_rank() != 0)
    _log_device(log, here)

    def make_net(source: NetSource) -> TrainingNet:
        return TrainingNet(
            source.net,
            source.phase,
            source.level,
            source.stages,
            log=log,
            allow_modules=settings.allow_modules,
            device=here,
            amp=settings.amp,
            palette_labels=settings.palette_labels,
        )

    observers = [_tensorboard(settings.tensorboard)] if settings.tensorboard and solver_rank() == 0 else []
    signals = Signals(settings.sigint_effect, settings.sighup_effect)
    writes = solver_rank() == 0 and (param.snapshot or param.snapshot_after_train)
    alone = only_run(param.snapshot_prefix) if writes else contextlib.nullcontext()
    with alone, signals, progress_bar() as bar:
        if bar.console.is_terminal and not log.silent:
            log.write = lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            task = bar.add_task("training", total=param.max_iter)
            observers.append(_bar_observer(bar, task))
        elif not log.silent:
            observers.append(_line_observer(param.max_iter))
        run = Solver(
            param,
            make_net,
            log=log,
            where=settings.solver,
            action=signals.action,
            observe=lambda kind, at, values: [tell(kind, at, values) for tell in observers],
        )
        if settings.snapshot:
            log("caffe.cpp:235", f"Resuming from {settings.snapshot}")
            run.restore(settings.snapshot)
        log("caffe.cpp:239", "Starting Optimization")
        run.solve(settings.iterations)
        log("caffe.cpp:250", "Optimization Done.")


class Signals:
    """SIGINT, SIGTERM and SIGHUP as requests to the solver inside a `with`, and what they were again after it.

    A SIGTERM, by which schedulers end jobs, does what a SIGINT does.
    """

    def __init__(self, sigint_effect: str, sighup_effect: str):
        self._effects = {
            signal.SIGHUP: sighup_effect,
            signal.SIGINT: sigint_effect,
            signal.SIGTERM: sigint_effect,
        }
        self._got: set[int] = set()

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._take) for number in self._effects}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def action(self) -> str:
        """What is asked for since the last call; a SIGHUP comes before a SIGINT."""
        for number, effect in self._effects.items():
            if number in self._got:
                self._got.discard(number)
                return effect
        return "none"

    def _take(self, number: int, frame: object) -> None:
        self._got.add(number)


def _device(asked: str, param: SolverParameter) -> str:
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is available here: use cpu")
    if asked:
        return asked
    gpu = param.HasField("solver_mode") and param.solver_mode == SolverParameter.GPU
    if gpu and not torch.cuda.is_available():
        typer.echo("warning: solver_mode: GPU, but there is no CUDA device: computing on the CPU", err=True)
        return "cpu"
    return f"cuda:{param.device_id}" if gpu else "cpu"


def _log_device(log: CaffeLog, device: torch.device) -> None:
    if device.type == "cpu":
        log("caffe.cpp:197", "Use CPU.")
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    log("caffe.cpp:204", f"Using GPUs {index}")
    log("caffe.cpp:209", f"GPU {index}: {torch.cuda.get_device_name(index)}")


def _tensorboard(folder: Path) -> Observer:
    need_packages("tensorboard", purpose="--tensorboard", otherwise=", or leave the option out")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def tell(kind: str, iteration: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"{kind}/{name}", value, iteration)

    return tell


def _bar_observer(bar: Any, task: int) -> Observer:
    def tell(kind: str, iteration: int, values: dict[str, float]) -> None:
        if kind == "train":
            shown = f"training · loss {values['loss']:.4g} · lr {values['lr']:.3g}"
            bar.update(task, completed=iteration, description=shown)

    return tell


def _line_observer(total: int) -> Observer:
    """Rate and time left, on stdout: on stderr there is Caffe's log alone, for Caffe's own parser."""
    lines: list[ProgressLines] = []

    def tell(kind: str, iteration: int, values: dict[str, float]) -> None:
        if kind == "train":
            if not lines:
                lines.append(
                    ProgressLines("training", total, "iterations", partial(print, flush=True), iteration)
                )
            lines[0].update(iteration)

    return tell
