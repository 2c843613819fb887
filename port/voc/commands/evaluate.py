"""`seenet evaluate`: label images, or attention, against ground truth; or attention against other maps."""

from pathlib import Path
from typing import Annotated

import typer

from port.voc.settings import check_workers
from prototxt.errors import InputError


def evaluate_command(
    list_: Annotated[
        Path, typer.Option("--list", help="Names; with --attention, NAME CLASS [CLASS …], classes from 0.")
    ],
    gt: Annotated[Path | None, typer.Option(help="Folder of true label images, NAME.png.")] = None,
    pred: Annotated[Path | None, typer.Option(help="Folder of label images to judge, NAME.png.")] = None,
    attention: Annotated[Path | None, typer.Option(help="Or of attention: NAME_CLASS.png.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="With --attention: other maps, such as the authors', instead of --gt.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write all numbers there.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Also draw a chart, PNG.")] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """Judge label images (IoU, accuracy, share ignored) or attention (best threshold, share on background).

    Or hold attention --against other maps of the same images and classes.
    """
    if (pred is None) == (attention is None):
        raise InputError("give --pred, a folder of label images, or --attention, a folder of maps")
    if (gt is None) == (against is None) or (against and (pred or chart)):
        raise InputError(
            "give --gt, the true label images, or, with --attention alone, --against, other maps"
        )
    check_workers(workers)
    from port.voc.each import report_failures

    if against:
        from port.voc.against import compare_attention, write_comparison

        pairs, failed = compare_attention(attention, against, list_, workers)
        if pairs:
            write_comparison(pairs, json_)
        report_failures(failed, len(pairs) + len(failed))
        return
    from port.voc.evaluate import evaluate_attention, evaluate_labels, write_evaluation

    if pred is not None:
        numbers, failed = evaluate_labels(pred, gt, list_, workers)
    else:
        numbers, failed = evaluate_attention(attention, gt, list_, workers)
    if numbers["images"]:
        write_evaluation(numbers, json_, chart)
    report_failures(failed, numbers["images"] + len(failed))
