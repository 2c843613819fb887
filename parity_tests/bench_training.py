"""What our layers, solver and data cost: python -m parity_tests.bench_training [--batch N] [--device cuda]

One iteration of full SeeNet's training at 224² (prototxt/seenet/train.prototxt on generated photographs: data,
three branches, update, log) beside the same forward and backward written directly in PyTorch, in turn, medians;
and the share of the iterations' time that was waiting for data.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parity_tests.recordings import NETS, he_uniform
from port.training.caffe_log import CaffeLog
from port.training.loop import Solver
from port.training.net import TrainingNet
from prototxt import read_net, read_solver
from weights import LayerWeights

TRUNK = (
    "1_1",
    "1_2",
    "P",
    "2_1",
    "2_2",
    "P",
    "3_1",
    "3_2",
    "3_3",
    "P",
    "4_1",
    "4_2",
    "4_3",
    "P",
    "5_1",
    "5_2",
    "5_3",
)
MOST = 1.15
"""What an iteration may cost, in direct forward and backward passes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        solver = make_solver(Path(folder), options.batch, options.device)
        net: TrainingNet = solver.net
        weights = dict(net.net.named_parameters())
        data = torch.randn(options.batch, 3, 224, 224, device=options.device) * 60
        labels = (torch.rand(options.batch, 20, device=options.device) < 0.1).float()
        seconds: dict[str, list[float]] = {"iteration": [], "direct": []}
        waited = 0.0
        for turn in range(options.turns + 1):
            before = net.net.data.prefetcher.waited
            iteration = timed(lambda: solver.step(1), options.device)
            net.clear_param_diffs()
            direct = timed(lambda: direct_pass(weights, data, labels).backward(), options.device)
            net.clear_param_diffs()
            if turn:  # the first is for warming up
                seconds["iteration"].append(iteration)
                seconds["direct"].append(direct)
                waited += net.net.data.prefetcher.waited - before
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratio = medians["iteration"] / medians["direct"]
    print(f"SeeNet, {options.batch} × 3 × 224 × 224 on {options.device}, {torch.get_num_threads()} threads")
    print(
        f"an iteration of ours: {medians['iteration']:.3f} s; directly, forward and backward: {medians['direct']:.3f} s"
    )
    print(f"ratio: {ratio:.3f} (at most {MOST} is due)")
    print(f"waiting for data: {waited / sum(seconds['iteration']):.2%} of our iterations' time")


def make_solver(folder: Path, batch: int, device: str) -> Solver:
    """A solver for the full training net on 16 generated photographs in `folder`."""
    draw = np.random.default_rng(0)
    for i in range(16):
        coarse = draw.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC))
    (folder / "list.txt").write_text("".join(f"{i} {i}\n" for i in range(16)))
    net = read_net(NETS / "seenet" / "train.prototxt")
    settings = {"list": os.fspath(folder / "list.txt"), "images": os.fspath(folder), "batch": batch}
    for layer in net.layer:
        if layer.name == "data":
            layer.python_param.param_str = str({**settings, "short_side": 224, "crop": 224, "mirror": True})
        if layer.name == "zero":
            layer.dummy_data_param.shape[0].dim[0] = batch
    param = read_solver(NETS / "seenet" / "solver.prototxt")
    param.ClearField("net")
    param.train_net_param.CopyFrom(net)
    param.snapshot, param.snapshot_after_train = 0, False
    quiet = CaffeLog(silent=True)

    def make_net(source):
        return TrainingNet(source.net, source.phase, source.level, source.stages, log=quiet, device=device)

    solver = Solver(param, make_net, log=quiet)
    shapes = {
        plan.name: [tuple(w.shape) for w in layer.blobs] for plan, layer in solver.net._layers if layer.blobs
    }
    weights = he_uniform(shapes, 1)
    solver.net.net.copy_weights([LayerWeights(name, blobs=blobs) for name, blobs in weights.items()])
    return solver


def direct_pass(weights: dict[str, Tensor], data: Tensor, labels: Tensor) -> Tensor:
    """The sum of the three losses, in plain PyTorch."""

    def conv(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    x = data
    for name in TRUNK:
        x = F.max_pool2d(x, 2, 2, ceil_mode=True) if name == "P" else F.relu(conv(f"conv{name}", x))
    loss, attention = torch.zeros((), device=data.device), torch.zeros(())
    for branch in ("b1", "b2", "b3"):
        features, target = x, labels
        if branch == "b2":
            features = torch.where(attention > 0.7, 0, torch.where(attention < 0.05, -x, x))
        if branch == "b3":
            features, target = torch.where(attention < 0.375, x, 0), torch.zeros_like(labels)
        features = F.relu(conv(f"conv1_{branch}", features))
        features = F.relu(conv(f"conv2_{branch}", features))
        if branch == "b1":
            features = F.dropout(features, 0.5)
        score = conv(f"score_{branch}", features, 0)
        if branch == "b1":
            positive = score.detach().clamp(min=0)
            low, high = positive.amin((2, 3), keepdim=True), positive.amax((2, 3), keepdim=True)
            maps = (positive - low) / (high - low + 1e-8) * labels[:, :, None, None]
            attention = maps.amax(1, keepdim=True)
        loss = loss + F.binary_cross_entropy_with_logits(score.mean((2, 3)), target)
    return loss


def timed(run: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
