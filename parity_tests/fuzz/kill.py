"""`python -m parity_tests.fuzz.kill`: trainings killed at random instants, and gone on with to the exact weights.

Each training takes a snapshot after every iteration, so that much of its time is spent in writing. It is killed by
SIGKILL, what lies in its folder must be whole, and the next one goes on from the newest snapshot, until one ends:
its weights must be those of a training that nobody disturbed, bit by bit, and no hidden file may be left.
"""

import multiprocessing
import os
import random
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from parity_tests.recordings import GOLDEN
from port.training.command import train_command
from port.training.snapshots import read_snapshot
from weights import read_weights

ITERATIONS = 12
_FORKS = multiprocessing.get_context("forkserver")


def prepare(folder: Path, hdf5: bool) -> None:
    """The recorded training's inputs, with a snapshot after each of a few iterations."""
    shutil.copytree(
        GOLDEN / "train_run", folder, ignore=shutil.ignore_patterns("snap_*", "resumed_*", "*.log")
    )
    folder.chmod(0o755)
    solver = folder / "solver.prototxt"
    solver.chmod(0o644)
    fields = {"max_iter": ITERATIONS, "snapshot": 1, "test_interval": 5}
    fields |= {"snapshot_format": "HDF5"} if hdf5 else {}
    text = re.sub(rf"^({'|'.join(fields)}):.*\n", "", solver.read_text(), flags=re.M)
    solver.write_text(text + "".join(f"{field}: {value}\n" for field, value in fields.items()))


def train(folder: Path, snapshot: str) -> None:
    """Train, or go on, in this process."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    train_command("solver.prototxt", snapshot=snapshot)


def newest(folder: Path) -> str:
    """The .solverstate of the highest iteration, or ""."""
    found = (
        path for kind in ("solverstate", "solverstate.h5") for path in folder.glob(f"snap_iter_*.{kind}")
    )
    return max(found, key=lambda path: int(re.findall(r"_(\d+)\.", path.name)[0]), default=Path("")).name


def is_whole(folder: Path) -> bool:
    """Whether each file that a run has named can be read, whichever instant it was killed at."""
    for path in folder.glob("snap_iter_*.caffemodel*"):
        read_weights(path)
    for path in folder.glob("snap_iter_*.solverstate*"):
        if not path.name.endswith(".json"):
            read_snapshot(path)
    return True


def same_weights(one: Path, other: Path) -> bool:
    """Bit by bit, with the layers' names."""
    mine, theirs = read_weights(one), read_weights(other)
    return [layer.name for layer in mine] == [layer.name for layer in theirs] and all(
        np.array_equal(a, b)
        for layer, like in zip(mine, theirs, strict=True)
        for a, b in zip(layer.blobs, like.blobs, strict=True)
    )


def _process(folder: Path, snapshot: str) -> multiprocessing.Process:
    process = _FORKS.Process(target=train, args=(folder, snapshot))
    process.start()
    return process


def _finish(folder: Path) -> None:
    process = _process(folder, newest(folder))
    process.join()
    if process.exitcode:
        raise AssertionError(
            f"a training that nobody killed ended with status {process.exitcode}, in {folder}"
        )


def kill_at_random(kills: int, seed: int, hdf5: bool) -> int:
    """Kill trainings so often; the number of them that ended with the exact weights.

    Raises:
        AssertionError: other weights, a file that is not whole, a hidden file that stays.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as above:
        folder = Path(above) / "run"
        prepare(folder, hdf5)
        os.chdir(folder)  # a .solverstate names its weights from there
        _finish(folder)
        began = time.monotonic()
        clear(folder)
        _finish(folder)
        whole = time.monotonic() - began
        last = f"snap_iter_{ITERATIONS}.caffemodel{'.h5' if hdf5 else ''}"
        straight = (folder / last).rename(folder / last.replace("snap", "straight"))
        clear(folder)
        done = ended = 0
        while done < kills:
            process = _process(folder, newest(folder))
            process.join(draw.uniform(0.05, 0.9) * whole)
            done += process.is_alive()
            process.kill()
            process.join()
            assert is_whole(folder)
            if (folder / last).exists() or done == kills:
                _finish(folder)
                assert same_weights(folder / last, straight), f"other weights after {done} kills, seed {seed}"
                left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
                assert not left, f"left for good: {left}"
                ended += 1
                clear(folder)
                typer.echo(f"{'HDF5' if hdf5 else 'binary'}: {done} of {kills} killed, {ended} ended exactly")
        os.chdir(above)
        return ended


def clear(folder: Path) -> None:
    for path in folder.glob("snap_*"):
        path.unlink()


def kill_command(
    kills: Annotated[int, typer.Option(min=1, help="In all, half of them with HDF5 snapshots.")] = 200,
    seed: Annotated[int | None, typer.Option(help="Of the instants.", show_default="a new one")] = None,
) -> None:
    """Kill trainings at random instants and go on with them; exit status 1 where that changes a bit."""
    seed = secrets.randbits(32) if seed is None else seed
    typer.echo(f"seed {seed}")
    ended = [
        kill_at_random(kills - kills // 2, seed, hdf5=False),
        kill_at_random(max(kills // 2, 1), seed, hdf5=True),
    ]
    typer.echo(f"{kills} of {kills} kills survived; {sum(ended)} trainings ended with the exact weights")


if __name__ == "__main__":
    _FORKS.set_forkserver_preload(["port.training.command", "torch._dynamo"])  # optimizers import it
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(kill_command)
    app()
