"""A run of `seenet bench`: its parts one after the other, told as they are done."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch

from parity_tests.bench import parts as measured
from parity_tests.bench.engines import make_files, use_threads
from parity_tests.bench.nets import bench_net, make_net_files
from parity_tests.bench.parts import Settings
from parity_tests.bench.report import print_part, write_chart, write_rounds
from parity_tests.bench.timing import Part
from weights.progress import plain_console, progress_bar

Measure = Callable[[Path, Callable[[str], None]], Iterable[Part]]
"""Given a folder for files, gone afterwards, and what is to be told of each step: the parts, as they are done."""


def run_bench(
    wanted: Sequence[str],
    *,
    device: str,
    threads: int,
    rounds: int,
    batch: int,
    quick: bool,
    json: Path | None,
    chart: Path | None,
) -> None:
    """Measure the wanted parts of SeeNet and print each; see `_run`."""

    def measure(folder: Path, tick: Callable[[str], None]) -> Iterator[Part]:
        settings = Settings(
            folder,
            make_files(folder, device, torch.get_num_threads(), quick),
            rounds,
            size=64 if quick else 256,
            crop=64 if quick else 224,
            batch=batch,
            narrow=quick,
            tick=tick,
        )
        for name in wanted:
            yield from getattr(measured, f"bench_{name}")(settings)

    told = ", quick: the times say nothing of SeeNet's" if quick else ""
    given = {"device": device, "rounds": rounds, "quick": quick}
    _run(measure, f"SeeNet on {device}", told, given, threads, json, chart)


def run_net_bench(
    nets: Sequence[tuple[Path, Path | None]],
    *,
    device: str,
    threads: int,
    rounds: int,
    batch: int,
    layers: bool,
    json: Path | None,
    chart: Path | None,
) -> None:
    """Measure nets, each a prototxt with its weights or None, and print what was found of each; see `_run`."""

    def measure(folder: Path, tick: Callable[[str], None]) -> Iterator[Part]:
        for i, (prototxt, weights) in enumerate(nets):
            own = folder / str(i)
            files = make_net_files(prototxt, weights, batch, own, device, torch.get_num_threads())
            yield from bench_net(prototxt.stem, files, rounds, layers, tick)

    given = {"device": device, "rounds": rounds, "batch": batch}
    _run(measure, f"{len(nets)} net{'s' * (len(nets) > 1)} on {device}", "", given, threads, json, chart)


def _run(
    measure: Measure,
    what: str,
    remark: str,
    given: dict[str, object],
    threads: int,
    json: Path | None,
    chart: Path | None,
) -> None:
    """Measure, print each part; write the parts to `json` and draw them in `chart` where these are given."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    use_threads(threads or torch.get_num_threads())
    console = plain_console()
    console.print(
        f"{what}, {torch.get_num_threads()} threads, float32, {given['rounds']} rounds{remark}",
        soft_wrap=True,
    )
    parts: list[Part] = []
    with tempfile.TemporaryDirectory(prefix="seenet_bench_") as folder, progress_bar() as bar:
        task = bar.add_task("", total=None)
        for part in measure(Path(folder), lambda told: bar.update(task, description=told, advance=1)):
            print_part(part, console)
            parts.append(part)
    if json is not None:
        write_rounds(json, parts, {**given, "threads": torch.get_num_threads()})
    if chart is not None:
        write_chart(chart, parts)
