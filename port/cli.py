"""The `seenet` command: names its subcommands, and loads a subcommand's module when that is called."""

import functools
import importlib
import importlib.metadata
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from port.last_resort import run_command, run_typer
from port.tools import SCRIPTS, TOOLS
from port.tools.process import run_tool
from prototxt.limits import set_max_memory

COMMANDS = {
    "attention": (
        "port.attention.command:attention_command",
        "Attention maps, NAME_CLASS.png (8 bits, original size).",
    ),
    "bench": (
        "parity_tests.bench.command:bench_command",
        "Time and memory of SeeNet, or of other nets, here, side by side with other engines.",
    ),
    "convert": (
        "weights.convert:convert_command",
        "Convert weights between Caffe's formats, safetensors and PyTorch's.",
    ),
    "demo": (
        "parity_tests.compare.command:demo_command",
        "SeeNet on a photograph, each blob held against float64; then a small trained one on generated images.",
    ),
    "evaluate": (
        "port.voc.commands.evaluate:evaluate_command",
        "Judge label images (IoU, accuracy, share ignored) or attention (best threshold, share on background).",
    ),
    "explain": (
        "port.attention.explain_command:explain_command",
        "One page of what S_A, C-ReLU, S_B and S_C see of an image and each label, and the same as a PNG.",
    ),
    "export": (
        "port.export.command:export_command",
        "Write a net for other runtimes; exit status 1 when a file does not compute what the port does.",
    ),
    "gallery": (
        "port.voc.commands.gallery:gallery_command",
        "One page of HTML: images, attention, labels and truth side by side, to be sorted by IoU.",
    ),
    "launchers": (
        "port.tools.launchers:launchers_command",
        "Write launchers under the names of Caffe's tools: caffe, convert_imageset, parse_log.py, …",
    ),
    "parity": (
        "parity_tests.compare.command:parity_command",
        "Compare a net's blobs in each engine with float64; exit status 1 when anything is out.",
    ),
    "pipeline": (
        "port.voc.commands.pipeline:pipeline_command",
        "Classifier → attention → proxy labels → segmentation net → mIoU; a page with curves and pictures.",
    ),
    "proxy-labels": (
        "port.voc.commands.proxy_labels:proxy_labels_command",
        "Fuse attention and saliency to label images (VOC's palette, 255 for ignored), NAME.png.",
    ),
    "saliency": (
        "port.voc.commands.saliency:saliency_command",
        "Saliency maps, NAME.png, of photographs or of a dataset, which goes on where it was stopped.",
    ),
    "segment": (
        "port.voc.commands.segment:segment_command",
        "Label images (VOC's palette, the image's own size), NAME.png.",
    ),
    "shapes": (
        "port.voc.commands.shapes:shapes_command",
        "Generate images of twenty classes in VOC's layout, with exact labels and simulated saliency.",
    ),
    "studies": (
        "port.voc.commands.studies:studies_command",
        "CAM, ACoL-style erasing and SeeNet in its forms on generated images: tables and figures.",
    ),
    "summary": (
        "port.report.command:summary_command",
        "List a net's layers, shapes, parameters, multiply-adds and memory; nothing is computed.",
    ),
    "survey": (
        "port.report.survey:survey_command",
        "Try every net below: which are read, planned, built and run, and what the others lack.",
    ),
    "train": (
        "port.training.command:train_command",
        "Train a net as `caffe train` does: same seed, same draws, same updates, same log, same files.",
    ),
    "translate": (
        "port.translate.command:translate_command",
        "Write a net as PyTorch code: model.py, its weights, a test, and the comparison with Caffe's numbers.",
    ),
    "voc-labels": (
        "port.voc.commands.voc_labels:voc_labels_command",
        "Write each image's classes, from 0, in rising order, and hold the counts against the paper's.",
    ),
}
"""Name → (module:function, the first line of the function's docstring). A test holds the lines equal."""


TABLES = {
    *(
        "attention",
        "convert",
        "demo",
        "export",
        "gallery",
        "parity",
        "pipeline",
        "segment",
        "shapes",
        "studies",
    ),
    *("summary", "voc-labels"),
}
"""Commands that print tables, and have no --json of their own."""


class _Commands(TyperGroup):
    """A group whose help is made of `COMMANDS`; a command is loaded when it is called, a tool of Caffe's run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args[0] in {**TOOLS, **SCRIPTS} and not ctx.resilient_parsing:  # not where a shell completes
            sys.exit(run_tool(args[0], args[1:]))
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else listed, rest


def load_command(name: str) -> Any:
    """The command as typer runs it, with its options: imports its module."""
    module, function = COMMANDS[name][0].split(":")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name)(_with_output(getattr(importlib.import_module(module), function), name in TABLES))
    return typer.main.get_command(alone)


def _with_output(function: Callable[..., Any], tables: bool) -> Callable[..., Any]:
    """The command with --quiet, and --json where it prints tables."""

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        from weights.output import command_output

        with command_output(given.pop("quiet"), given.pop("tables", None)):
            return function(**given)

    added = {"quiet": (Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")], False)}
    if tables:
        help_ = "Also write the tables there, as JSON."
        added["tables"] = (Annotated[Path | None, typer.Option("--json", metavar="FILE", help=help_)], None)
    signature = inspect.signature(function, eval_str=True)  # a module may keep its annotations as text
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in added.items()
    ]
    asked = signature.replace(parameters=[*signature.parameters.values(), *more])
    run.__signature__ = asked  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in asked.parameters.values()}
    return run


def _listed() -> None:
    """Stands in the list of commands for one that is not loaded; Caffe's tools read their flags themselves."""


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"seenet-caffe {importlib.metadata.version('seenet-caffe')}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="SeeNet and any Caffe net on PyTorch, with the evidence.",
)


def _set_max_memory(gib: float | None) -> float | None:
    if gib is not None:
        set_max_memory(int(gib * (1 << 30)))
    return gib


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end."),
    ] = False,
    max_memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="GiB that a net's blobs and weights may take.",
            show_default="80 % of what there is",
            callback=_set_max_memory,
        ),
    ] = None,
) -> None:
    """SeeNet and any Caffe net on PyTorch, with the evidence."""


for _name, (_, _summary) in {**COMMANDS, **TOOLS, **SCRIPTS}.items():
    app.command(_name, help=_summary)(_listed)


def main() -> None:
    """Run the command. The exit status is decided by one rule, for all commands:

    0: done. 1: done, and the verdict is no (`parity`, `export` and `demo`: a result is out of tolerance).
    2: an input or an option cannot be used as it is: an `InputError`, which is one line, `error: …`, on
    stderr. A command for many images goes on with the others, tells each bad one on such a line, and exits
    with 2 at the end (`port.voc.each.report_failures`). What else may end a command, a fault
    or Ctrl-C, has a status of its own: see `run_command`.
    """
    run_command(lambda: run_typer(app))


if __name__ == "__main__":
    main()
