"""A short training, update by update (reference/golden/README.md, "solvers")."""

from __future__ import annotations  # genuine Caffe may run on an older Python

import re
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np

from parity_tests.record.files import inputs_of, recorded_by, write_case


def record_training(args: Namespace) -> None:
    """Record `args.iterations` updates of the net by the solver: the loss of each last pass, kept weights.

    Weights begin as the fillers draw them from `--seed`; pass k sees batch k.

    Raises:
        ValueError: a net with another number of outputs than one, the loss; wrong `--keep`.
    """
    caffe = args.caffe
    keep = sorted({*(int(text) for text in args.keep.split(",") if text), args.iterations})
    if keep[0] < 1 or keep[-1] > args.iterations:
        raise ValueError(f"--keep {args.keep}: must be iterations from 1 to {args.iterations}")
    caffe.set_mode_cpu()
    caffe.set_random_seed(args.seed)
    solver = _solver(caffe, args.solver.read_text(), args.prototxt)
    net = solver.net
    if len(net.outputs) != 1:
        raise ValueError(f"{args.prototxt}: must have one output, the loss, not {', '.join(net.outputs)}")
    arrays = _weights(net, "init")
    shapes = {name: tuple(net.blobs[name].data.shape) for name in net.inputs}
    text = args.solver.read_text()
    said = re.search(r"\biter_size\s*:\s*(\d+)", text)
    iter_size = int(said[1]) if said else 1
    passes = args.iterations * iter_size
    batches = inputs_of(args, shapes, passes)
    arrays.update({f"batch/{name}": values for name, values in batches.items()})
    losses = []
    for iteration in range(1, args.iterations + 1):
        net.clear_param_diffs()
        for k in range((iteration - 1) * iter_size, iteration * iter_size):
            for name, values in batches.items():
                net.blobs[name].data[...] = values[k]
            net.forward()
            net.backward()
        losses.append(float(net.blobs[net.outputs[0]].data))
        solver.apply_update()
        if iteration in keep:
            arrays.update(_weights(net, f"after/{iteration}"))
    case = {
        "name": args.name,
        "solver": text,
        "net": args.prototxt.read_text(),
        "iter_size": iter_size,
        "batches": passes,
        "loss_of_last_pass": losses,
        "kept_iterations": keep,
        "recorded_by": recorded_by(caffe),
    }
    write_case(args.out, case, arrays)


def _solver(caffe, text: str, net: Path):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "solver.prototxt"
        path.write_text(f'{text}\ntrain_net: "{net.resolve()}"\nsnapshot_after_train: false\n')
        return caffe.get_solver(str(path))


def _weights(net, prefix: str) -> dict[str, np.ndarray]:
    return {
        f"{prefix}/{layer}/{i}": blob.data.copy()
        for layer, blobs in net.params.items()
        for i, blob in enumerate(blobs)
    }
