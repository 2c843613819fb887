"""`seenet evaluate`: label images, or attention, against ground truth."""

from pathlib import Path
from typing import Annotated

import typer

from port.voc.settings import check_workers
from prototxt.errors import InputError


def evaluate_command(
    gt: Annotated[Path, typer.Option(help="Folder of true label images, NAME.png.")],
    list_: Annotated[
        Path, typer.Option("--list", help="Names; with --attention, NAME CLASS [CLASS …], classes from 0.")
    ],
    pred: Annotated[Path | None, typer.Option(help="Folder of label images to judge, NAME.png.")] = None,
    attention: Annotated[Path | None, typer.Option(help="Or of attention: NAME_CLASS.png.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write all numbers there.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Also draw a chart, PNG.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """Judge label images (IoU, accuracy, share ignored) or attention (best threshold, share on background)."""
    if (pred is None) == (attention is None):
        raise InputError("give --pred, a folder of label images, or --attention, a folder of maps")
    check_workers(workers)
    from port.voc.each import report_failures
    from port.voc.evaluate import evaluate_attention, evaluate_labels, write_evaluation

    if pred is not None:
        numbers, failed = evaluate_labels(pred, gt, list_, workers)
    else:
        numbers, failed = evaluate_attention(attention, gt, list_, workers)
    if numbers["images"]:
        write_evaluation(numbers, json_, chart)
    report_failures(failed, numbers["images"] + len(failed))
