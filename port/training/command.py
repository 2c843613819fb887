"""The command that trains: the options of `caffe train`, and a few more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from port.last_resort import run_command, run_typer
from port.own_options import AllowModule, Proto, load_own
from prototxt.caffe_pb2 import SolverParameter
from prototxt.errors import InputError
from prototxt.read import read_solver

EFFECTS = ("stop", "snapshot", "none")


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
    allow_module: AllowModule = None,
    proto: Proto = None,
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
    param = _solver_param(solver, weights, snapshot, level, stage)
    for name, value, known in (
        ("--device", device, ("", "cpu", "cuda")),
        ("--sigint_effect", sigint_effect, EFFECTS),
        ("--sighup_effect", sighup_effect, EFFECTS),
        ("--phase", phase, ("", "TRAIN", "TEST")),
    ):
        if value not in known:
            raise InputError(f'{name} "{value}": must be one of {", ".join(filter(None, known))}')
    modules = load_own(allow_module, proto)
    from port.training.run import TrainSettings, run_training

    settings = TrainSettings(
        solver=solver,
        snapshot=snapshot,
        iterations=iterations,
        device=device,
        sigint_effect=sigint_effect,
        sighup_effect=sighup_effect,
        allow_modules=modules,
        palette_labels=palette_labels,
        tensorboard=tensorboard,
        amp=amp,
        tf32=tf32,
    )
    run_training(param, settings)


def _solver_param(solver: str, weights: str, snapshot: str, level: int, stage: str) -> SolverParameter:
    if snapshot and weights:
        raise InputError("--snapshot resumes and --weights finetunes: give one of the two")
    param = read_solver(solver)
    param.train_state.level = level
    param.train_state.stage.extend(stage.split(","))  # one that is empty where none is given, as Caffe's
    if snapshot or weights:
        param.ClearField("weights")
    if weights:
        param.weights.append(weights)
    return param


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command as `train_caffe_equiv.py`; errors and exit status as `port.cli.main` has them."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train_command)
    run_command(lambda: run_typer(app, arguments, "train_caffe_equiv.py"))
