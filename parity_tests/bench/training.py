"""SeeNet's training by the port's solver, and the same forward and backward written directly in PyTorch."""

import os
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity_tests.bench.engines import NETS
from port.models.seenet import TRUNK
from port.training.caffe_log import CaffeLog
from port.training.loop import Solver
from port.training.net import TrainingNet
from prototxt import read_net, read_solver


def make_solver(
    folder: Path, batch: int, device: str, size: int = 224, narrow: bool = False, amp: bool = False
) -> Solver:
    """A solver for SeeNet's training net on 16 generated photographs in `folder`."""
    draw = np.random.default_rng(0)
    for i in range(16):
        coarse = draw.integers(0, 256, (8, 8, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC))
    (folder / "list.txt").write_text("".join(f"{i} {i}\n" for i in range(16)))
    net = read_net(NETS / ("narrow_train.prototxt" if narrow else "train.prototxt"))
    settings = {"list": os.fspath(folder / "list.txt"), "images": os.fspath(folder), "batch": batch}
    for layer in net.layer:
        if layer.name == "data":
            layer.python_param.param_str = str({**settings, "short_side": size, "crop": size, "mirror": True})
        if layer.name == "zero":
            layer.dummy_data_param.shape[0].dim[0] = batch
    param = read_solver(NETS / "solver.prototxt")
    param.ClearField("net")
    param.train_net_param.CopyFrom(net)
    param.snapshot, param.snapshot_after_train = 0, False
    quiet = CaffeLog(silent=True)

    def make_net(source):
        return TrainingNet(
            source.net, source.phase, source.level, source.stages, log=quiet, device=device, amp=amp
        )

    solver = Solver(param, make_net, log=quiet)
    with torch.no_grad():
        for weight in solver.net.net.parameters():
            if weight.dim() == 4:
                nn.init.kaiming_uniform_(weight, nonlinearity="relu")
    return solver


def direct_pass(weights: dict[str, Tensor], data: Tensor, labels: Tensor) -> Tensor:
    """The sum of the three losses, in plain PyTorch."""

    def conv(name: str, x: Tensor, padding: int = 1) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    x = data
    for block, names in enumerate(TRUNK):
        if block:
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        for name in names:
            x = F.relu(conv(f"conv{name}", x))
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


class SgdIteration:
    """The same in PyTorch as it is usually written: forward, backward, `torch.optim.SGD`'s step.

    The same arithmetic as the solver's iteration but for Caffe's data layers, log and rules; on its own weights.
    """

    def __init__(self, solver: Solver, batch: int, size: int):
        named = {name: w.detach().clone().requires_grad_() for name, w in solver.net.net.named_parameters()}
        device = next(iter(named.values())).device
        self.weights = named
        self.data = torch.randn(batch, 3, size, size, device=device) * 60
        self.labels = (torch.rand(batch, 20, device=device) < 0.1).float()
        self.optimiser = torch.optim.SGD(
            [
                {"params": [w for w in named.values() if w.dim() > 1], "weight_decay": 2e-4},
                {"params": [w for w in named.values() if w.dim() == 1], "lr": 2e-5},
            ],
            lr=1e-5,
            momentum=0.9,
        )

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        direct_pass(self.weights, self.data, self.labels).backward()
        self.optimiser.step()
