"""The `seenet` command."""

import typer

from parity_tests.bench.command import bench_command
from parity_tests.compare.command import parity_command
from port.attention.command import attention_command
from port.demo import demo_command
from port.export.command import export_command
from port.last_resort import run_command
from port.report.summary import summary_command
from port.training.command import train_command
from port.voc.evaluate import evaluate_command
from port.voc.gallery import gallery_command
from port.voc.pipeline import pipeline_command
from port.voc.proxy_labels import proxy_labels_command
from port.voc.segment import segment_command
from port.voc.shapes import shapes_command
from port.voc.studies import studies_command
from port.voc.voc_labels import voc_labels_command
from weights.convert import convert_command

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="SeeNet and any Caffe net on PyTorch, with the evidence.",
)
app.command("attention")(attention_command)
app.command("bench")(bench_command)
app.command("convert")(convert_command)
app.command("demo")(demo_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.command("gallery")(gallery_command)
app.command("parity")(parity_command)
app.command("pipeline")(pipeline_command)
app.command("proxy-labels")(proxy_labels_command)
app.command("segment")(segment_command)
app.command("shapes")(shapes_command)
app.command("studies")(studies_command)
app.command("summary")(summary_command)
app.command("train")(train_command)
app.command("voc-labels")(voc_labels_command)


def main() -> None:
    """Run the command; whatever ends it is one line on stderr (see `run_command`)."""
    run_command(app)


if __name__ == "__main__":
    main()
