"""python -m parity_tests.record layer|training …: write one recorded case, NAME.json and NAME.npz."""

from __future__ import annotations  # genuine Caffe may run on an older Python

import argparse
import importlib
import sys
from pathlib import Path

from parity_tests.record.layer import record_layer
from parity_tests.record.training import record_training


def main() -> None:
    """The command."""
    args = _parser().parse_args()
    try:
        args.caffe = importlib.import_module(args.caffe)
        args.record(args)
    except (ImportError, OSError, ValueError) as error:
        print("error: {}".format(" ".join(str(error).split())), file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m parity_tests.record", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--name", required=True, help="the case's name, unique among the recordings")
    shared.add_argument(
        "--out", required=True, type=Path, metavar="FOLDER", help="where NAME.json and .npz go"
    )
    shared.add_argument("--caffe", default="caffe", metavar="MODULE", help="what to record (default: caffe)")
    shared.add_argument(
        "--seed", type=int, default=1, help="of the inputs, the first weights and the gradients"
    )
    shared.add_argument(
        "--inputs", type=Path, metavar="FILE.npz", help="inputs by blob name, in place of drawn ones"
    )
    shared.add_argument(
        "--below",
        action="append",
        default=[],
        metavar="BLOB=N",
        help="draw whole numbers from 0 to N-1 for this input",
    )

    layer = kinds.add_parser("layer", parents=[shared], help="forward and backward of a small net")
    layer.add_argument("prototxt", type=Path, metavar="CASE.prototxt", help="Input layers and the layer")
    layer.add_argument("--phase", choices=("TRAIN", "TEST"), default="TRAIN")
    layer.add_argument("--steps", type=int, default=1, help="forward passes")
    layer.add_argument("--random-seed", type=int, help="set just before the first forward pass (dropout)")
    layer.add_argument("--no-backward", action="store_true", help="for a layer without a gradient")
    layer.set_defaults(record=record_layer)

    training = kinds.add_parser("training", parents=[shared], help="a short training")
    training.add_argument("prototxt", type=Path, metavar="NET.prototxt", help="Input layers and one loss")
    training.add_argument("solver", type=Path, metavar="SOLVER.prototxt", help="names no net")
    training.add_argument("--iterations", type=int, default=10)
    training.add_argument(
        "--keep", default="", metavar="1,2,…", help="iterations whose weights are kept; the last is"
    )
    training.set_defaults(record=record_training)
    return parser


if __name__ == "__main__":
    main()
