"""`seenet bench`."""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from parity_tests.bench.engines import make_files, use_threads
from parity_tests.bench.parts import PARTS, Part, Settings
from parity_tests.bench.report import print_part, write_chart, write_json
from port.devices import check_device
from port.progress import plain_console, progress_bar
from prototxt.errors import InputError


def bench_command(
    only: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS)}, commas between. Without: all.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count; one more comes before.")] = 5,
    threads: Annotated[int, typer.Option(min=0, help="Of every engine; 0: as many as PyTorch takes.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Images in a training iteration.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="A narrow net, small images: only to see that everything runs.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Also write every figure here.", metavar="FILE")] = None,
    chart: Annotated[Path | None, typer.Option(help="Also draw them.", metavar="FILE.png")] = None,
) -> None:
    """Time and memory of SeeNet here, side by side with other engines; weights are rebuilt from a seed.

    In each round every engine runs once, so that what else the machine does falls on all alike; ratios are
    medians of the rounds' ratios. Engines that are not installed are named.
    """
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        raise InputError(f"--only {unknown[0]}: the parts are {', '.join(PARTS)}")
    check_device(device)
    for path in (json, chart):
        if path is not None and path.is_dir():
            raise InputError(f"{path}: is a folder: name a file")
    if chart is not None and chart.suffix.lower() != ".png":
        raise InputError(f"{chart}: the chart is a .png")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    use_threads(threads or torch.get_num_threads())
    console = plain_console()
    console.print(
        f"SeeNet on {device}, {torch.get_num_threads()} threads, float32, {rounds} rounds"
        + (", quick: the times say nothing of SeeNet's" if quick else "")
    )
    parts: list[Part] = []
    with tempfile.TemporaryDirectory(prefix="seenet_bench_") as folder, progress_bar() as bar:
        task = bar.add_task("", total=None)
        settings = Settings(
            Path(folder),
            make_files(Path(folder), device, torch.get_num_threads(), quick),
            rounds,
            size=64 if quick else 256,
            crop=64 if quick else 224,
            batch=batch,
            narrow=quick,
            tick=lambda what: bar.update(task, description=what, advance=1),
        )
        for name in wanted:
            for part in PARTS[name](settings):
                print_part(part, console)
                parts.append(part)
    given = {"device": device, "threads": torch.get_num_threads(), "rounds": rounds, "quick": quick}
    if json is not None:
        write_json(json, parts, given)
    if chart is not None:
        write_chart(chart, parts)
