"""`python -m parity_tests.fuzz.full_disk`: trainings on a disk that becomes full, and gone on with once there is room.

The disk is a small file system in memory, in a name space of its own (Linux's `unshare`). A file is put there that
leaves room for so many pages: from less than one snapshot's first file to more than two snapshots. The training must
end with one line and status 2, each file that it has named must be whole, no hidden one may be left; then the file
is taken away, and the training that goes on must end with the weights of one that nobody disturbed, bit by bit.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from parity_tests.fuzz.kill import ITERATIONS, clear, is_whole, newest, prepare, same_weights
from port.training.command import main as train_main

PAGE = 4096
DISK = 16 << 20
_ALONE = "SEENET_FULL_DISK"
_FORKS = multiprocessing.get_context("forkserver")


def alone_or_again() -> None:
    """Start this program again, where it may mount a file system that nobody else sees."""
    if not os.environ.get(_ALONE):
        os.environ[_ALONE] = "1"
        command = [sys.executable, "-m", "parity_tests.fuzz.full_disk", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--map-root-user", "--mount", *command])


def train(folder: Path, snapshot: str, told: Path) -> None:
    """Train, or go on, as the command does; what it tells goes to the file `told`."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    train_main(["--solver", "solver.prototxt", *(["--snapshot", snapshot] if snapshot else [])])


def status_of(folder: Path, told: Path) -> int:
    """The exit status of a training that goes on from the newest snapshot."""
    process = _FORKS.Process(target=train, args=(folder, newest(folder), told))
    process.start()
    process.join()
    return process.exitcode or 0


def fill_and_go_on(rooms: int, hdf5: bool) -> tuple[int, int]:
    """Train with room for 1, 2, … pages: how many of these trainings were stopped by the full disk, of how many.

    Raises:
        AssertionError: more than one line, another status, a torn or hidden file, other weights.
    """
    last = f"snap_iter_{ITERATIONS}.caffemodel{'.h5' if hdf5 else ''}"
    with tempfile.TemporaryDirectory() as above:
        disk, told = Path(above) / "disk", Path(above) / "told"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", disk], check=True)
        try:
            folder = disk / "run"
            prepare(folder, hdf5)
            os.chdir(folder)
            assert status_of(folder, told) == 0, told.read_text()
            straight = (folder / last).rename(folder / last.replace("snap", "straight"))
            clear(folder)
            stopped = sum(_stopped(folder, folder / last, straight, room, told) for room in range(rooms))
            os.chdir(above)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)
    return stopped, rooms


def _stopped(folder: Path, last: Path, straight: Path, room: int, told: Path) -> bool:
    """Whether a training was stopped by the full disk; it has then ended with the exact weights."""
    ballast = folder.parent / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - room * PAGE)
    status = status_of(folder, told)
    lines = [line for line in told.read_text().splitlines() if line.startswith("error:")]
    full = "No space left on device"
    assert status == (2 if lines else 0), f"status {status}, room for {room} pages: {told.read_text()}"
    assert len(lines) == (status == 2) and all(full in line for line in lines), lines
    assert is_whole(folder)
    assert not _hidden(folder), f"left for good: {_hidden(folder)}"
    ballast.unlink()
    assert status_of(folder, told) == 0, told.read_text()
    assert same_weights(last, straight), f"other weights after room for {room} pages"
    assert not _hidden(folder), f"left for good: {_hidden(folder)}"
    clear(folder)
    return status == 2


def _hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def full_disk_command(
    rooms: Annotated[
        int, typer.Option(min=1, help="Pages of 4 KiB that are left, from 0 to below this.")
    ] = 24,
) -> None:
    """Fill the disk under trainings and go on with them; exit status 1 where that changes a bit."""
    for hdf5 in (False, True):
        stopped, tried = fill_and_go_on(rooms, hdf5)
        kind = "HDF5" if hdf5 else "binary"
        typer.echo(
            f"{kind}: {stopped} of {tried} trainings met a full disk; all ended with the exact weights"
        )


if __name__ == "__main__":
    alone_or_again()
    _FORKS.set_forkserver_preload(["port.training.command", "torch._dynamo"])
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(full_disk_command)
    app()
