"""The command that trains: `caffe train`, on PyTorch."""

import contextlib
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from port.last_resort import run_command
from port.layers.data import ImageSegData
from port.progress import progress_bar
from port.ranks import joined_ranks, solver_rank
from port.training.caffe_log import CaffeLog
from port.training.loop import Solver
from port.training.net import TrainingNet
from port.training.snapshots import only_run
from port.training.solver_nets import NetSource
from prototxt.caffe_pb2 import SolverParameter
from prototxt.errors import InputError
from prototxt.read import read_solver

EFFECTS = ("stop", "snapshot", "none")

Observer = Callable[[str, int, dict[str, float]], None]


def train_command(
    solver: Annotated[str, typer.Option(help="The solver's prototxt.")],
    weights: Annotated[
        str, typer.Option(help="Weights to start from, with commas between; not with --snapshot.")
    ] = "",
    snapshot: Annotated[
        str, typer.Option(help="A .solverstate to go on from: ours or genuine Caffe's.")
    ] = "",
    iterations: Annotated[
        int | None, typer.Option(help="Stop after so many; the schedule keeps its max_iter.", min=0)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda. Default: the solver's solver_mode.")] = "",
    sigint_effect: Annotated[
        str,
        typer.Option("--sigint_effect", "--sigint-effect", help="What Ctrl-C does: stop, snapshot, none."),
    ] = "stop",
    sighup_effect: Annotated[
        str, typer.Option("--sighup_effect", "--sighup-effect", help="What SIGHUP does.")
    ] = "snapshot",
    phase: Annotated[
        str, typer.Option(help="TRAIN or TEST: taken, and without effect, as in caffe train.")
    ] = "",
    level: Annotated[int, typer.Option(help="The training net's level.")] = 0,
    stage: Annotated[str, typer.Option(help="The training net's stages, with commas between.")] = "",
    allow_module: Annotated[
        list[str] | None, typer.Option(help="A Python module that the net may load; may be repeated.")
    ] = None,
    palette_labels: Annotated[
        bool,
        typer.Option(
            "--palette-labels",
            help="ImageSegData: take palette label images' indices, which Caffe cannot read.",
        ),
    ] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Also write curves for TensorBoard there.")] = None,
    amp: Annotated[
        bool, typer.Option("--amp", help="Mixed precision, bfloat16: faster, and no longer Caffe's numbers.")
    ] = False,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Let CUDA use TF32: faster, and no longer Caffe's numbers.")
    ] = False,
) -> None:
    """Train a net as `caffe train` does: same seed, same draws, same updates, same log, same files.

    Paths are relative to the current folder. Under torchrun each process trains on its own batches and the
    gradients are averaged, as Caffe does on several GPUs.
    """
    ImageSegData.palette_indices = palette_labels
    param = _solver_param(solver, weights, snapshot, level, stage)
    for name, value, known in (
        ("--sigint_effect", sigint_effect, EFFECTS),
        ("--sighup_effect", sighup_effect, EFFECTS),
        ("--phase", phase, ("", "TRAIN", "TEST")),
    ):
        if value not in known:
            raise InputError(f'{name} "{value}": one of {", ".join(filter(None, known))} is due')
    with joined_ranks(_device(device, param)) as here:
        _train(
            param,
            here,
            solver,
            snapshot,
            iterations,
            Signals(sigint_effect, sighup_effect),
            allow_module or (),
            tensorboard,
            amp,
            tf32,
        )


def _train(
    param: SolverParameter,
    here: torch.device,
    solver: str,
    snapshot: str,
    iterations: int | None,
    signals: "Signals",
    allow_modules: Collection[str],
    tensorboard: Path | None,
    amp: bool,
    tf32: bool,
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    log = CaffeLog(silent=solver_rank() != 0)
    _log_device(log, here)

    def make_net(source: NetSource) -> TrainingNet:
        return TrainingNet(
            source.net,
            source.phase,
            source.level,
            source.stages,
            log=log,
            allow_modules=allow_modules,
            device=here,
            amp=amp,
        )

    observers = [_tensorboard(tensorboard)] if tensorboard and solver_rank() == 0 else []
    writes = solver_rank() == 0 and (param.snapshot or param.snapshot_after_train)
    alone = only_run(param.snapshot_prefix) if writes else contextlib.nullcontext()
    with alone, signals, progress_bar() as bar:
        if bar.console.is_terminal and not log.silent:
            log.write = lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
            task = bar.add_task("training", total=param.max_iter)
            observers.append(_bar_observer(bar, task))
        run = Solver(
            param,
            make_net,
            log=log,
            where=solver,
            action=signals.action,
            observe=lambda kind, at, values: [tell(kind, at, values) for tell in observers],
        )
        if snapshot:
            log("caffe.cpp:235", f"Resuming from {snapshot}")
            run.restore(snapshot)
        log("caffe.cpp:239", "Starting Optimization")
        run.solve(iterations)
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


def _solver_param(solver: str, weights: str, snapshot: str, level: int, stage: str) -> SolverParameter:
    if snapshot and weights:
        raise InputError("--snapshot resumes and --weights finetunes: give one of the two")
    param = read_solver(solver)
    param.train_state.level = level
    param.train_state.stage.extend(filter(None, stage.split(",")))
    if snapshot or weights:
        param.ClearField("weights")
    if weights:
        param.weights.append(weights)
    return param


def _device(asked: str, param: SolverParameter) -> str:
    if asked not in ("", "cpu", "cuda"):
        raise InputError(f'--device "{asked}": cpu or cuda is due')
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no CUDA device is to be had here: use cpu")
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
    index = device.index or 0
    log("caffe.cpp:204", f"Using GPUs {index}")
    log("caffe.cpp:209", f"GPU {index}: {torch.cuda.get_device_name(index)}")


def _tensorboard(folder: Path) -> Observer:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard needs the package tensorboard: pip install tensorboard, or leave the option out"
        ) from error
    writer = SummaryWriter(str(folder))

    def tell(kind: str, iteration: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"{kind}/{name}", value, iteration)

    return tell


def _bar_observer(bar: object, task: int) -> Observer:
    def tell(kind: str, iteration: int, values: dict[str, float]) -> None:
        if kind == "train":
            shown = f"training · loss {values['loss']:.4g} · lr {values['lr']:.3g}"
            bar.update(task, completed=iteration, description=shown)

    return tell


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; whatever ends it is one line on stderr (see `run_command`)."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train_command)
    run_command(lambda: app(arguments, prog_name="train_caffe_equiv.py"))
