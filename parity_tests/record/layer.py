"""One small net, forward and backward (reference/golden/README.md, "one layer")."""

from __future__ import annotations  # genuine Caffe may run on an older Python

from argparse import Namespace

import numpy as np

from parity_tests.record.files import inputs_of, recorded_by, write_case


def record_layer(args: Namespace) -> None:
    """Record the net of `args.prototxt`.

    Weights are what the fillers draw from `--seed`; the outputs that are no losses get a gradient of standard
    normal numbers. Say `force_backward: true` in the prototxt for the gradients of the inputs.
    """
    caffe = args.caffe
    caffe.set_mode_cpu()
    caffe.set_random_seed(args.seed)
    net = caffe.Net(str(args.prototxt), getattr(caffe, args.phase))
    arrays = {}
    for layer, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            arrays[f"param/{layer}/{i}"] = blob.data.copy()
    shapes = {name: tuple(net.blobs[name].data.shape) for name in net.inputs}
    for name, value in inputs_of(args, shapes).items():
        arrays[f"in/{name}"] = value
        net.blobs[name].data[...] = value
    if args.random_seed is not None:
        caffe.set_random_seed(args.random_seed)
    for _ in range(args.steps):
        net.forward()
    for name in net.outputs:
        arrays[f"out/{name}"] = net.blobs[name].data.copy()
    if args.steps > 1:
        for layer, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                arrays[f"param_after/{layer}/{i}"] = blob.data.copy()
    if not args.no_backward:
        arrays.update(_backward(net, args.seed))
    case = {
        "name": args.name,
        "phase": args.phase,
        "prototxt": args.prototxt.read_text(),
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "steps": args.steps,
        "backward": not args.no_backward,
        "random_seed": args.random_seed,
        "params": {layer: len(blobs) for layer, blobs in net.params.items()},
        "recorded_by": recorded_by(caffe),
    }
    write_case(args.out, case, arrays)


def _backward(net, seed: int) -> dict[str, np.ndarray]:
    """The gradients put on the outputs, and those that came of them; what is all zero is left out."""
    random = np.random.RandomState(seed + 1)
    arrays = {}
    for name in net.outputs:
        if not net.blob_loss_weights[name]:
            given = np.asarray(random.standard_normal(net.blobs[name].data.shape), np.float32)
            net.blobs[name].diff[...] = arrays[f"outdiff/{name}"] = given
    for blobs in net.params.values():
        for blob in blobs:
            blob.diff[...] = 0
    net.backward()
    found = {f"indiff/{name}": net.blobs[name].diff for name in net.inputs}
    for layer, blobs in net.params.items():
        found.update({f"paramdiff/{layer}/{i}": blob.diff for i, blob in enumerate(blobs)})
    arrays.update({key: diff.copy() for key, diff in found.items() if diff.any()})
    return arrays
