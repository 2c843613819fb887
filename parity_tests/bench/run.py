"""A run of `seenet bench`: its parts one after the other, told as they are done."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from parity_tests.bench import parts as measured
from parity_tests.bench.engines import make_files, use_threads
from parity_tests.bench.parts import Part, Settings
from parity_tests.bench.report import print_part, write_chart, write_json
from weights.progress import plain_console, progress_bar


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
    """Measure the wanted parts and print each; write them to `json` and draw them in `chart` where these are given."""
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
            for part in getattr(measured, f"bench_{name}")(settings):
                print_part(part, console)
                parts.append(part)
    given = {"device": device, "threads": torch.get_num_threads(), "rounds": rounds, "quick": quick}
    if json is not None:
        write_json(json, parts, given)
    if chart is not None:
        write_chart(chart, parts)
