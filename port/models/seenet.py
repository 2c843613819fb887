"""SeeNet as an idiomatic module: VGG-16's trunk, and the branches S_A, S_B and S_C."""

import os
import warnings
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from port.copying import copy_by_name
from port.models.crelu import BackgroundMask, CReLU
from prototxt.errors import InputError
from weights import LayerWeights, check_finite, read_weights
from weights.opening import README

TRUNK = (("1_1", "1_2"), ("2_1", "2_2"), ("3_1", "3_2", "3_3"), ("4_1", "4_2", "4_3"), ("5_1", "5_2", "5_3"))
"""The trunk's convolutions by block; a 2×2 max pooling, rounding up, follows each block but the last."""

TEST_THRESHOLDS = (0.8, 0.0)
"""C-ReLU's δ_h and δ_l in the released deploy net."""

_UNUSUAL = (
    "SeeNet is being trained with the released test thresholds, maxt=0.8 and mint=0.0, with which nothing is negated: "
    "the paper trains with SeeNet(maxt=0.7, mint=0.05)"
)

BRANCH = ("conv1", "conv2", "score")
"""The convolutions of a branch; its suffix, _b1, _b2 or _b3, follows."""


class SeeNet(nn.Module):
    """Self-Erasing Network (NeurIPS 2018): [P] the paper, [R] the authors' released nets.

    The state dict's keys are Caffe's layer names: `conv1_1.weight` … `score_b3.bias`. Works on batches, any
    size from 1×1, CPU and CUDA, under autograd, `torch.export` and ONNX.

    Args:
        num_classes: channels of the score maps.
        maxt, mint: C-ReLU's thresholds δ_h and δ_l. The default is the released deploy net's (0.8, 0.0),
            what the published maps come from; [P] trains with 0.7 and 0.05.
        backward: C-ReLU's gradient, "caffe" as released (channel 0 only) or "exact". See `CReLU`.
        erasing: whether S_B exists. Without it this is plain class attention, S_A alone.
        background: whether S_C exists. It runs in training mode only; its labels are all zero.
        share_background: whether S_C is S_B's own classifier, shown the background, instead of one with its own
            weights. [R] names the parameters of S_B alone, and in Caffe a parameter's name serves to share it:
            README, "what each source says".
        dropout: in S_A before the scores, in training mode ([R]: 0.5; none in S_B).
        channels: of the five blocks; the branches have the last. (64, 128, 256, 512, 512) is VGG-16.
    """

    def __init__(
        self,
        num_classes: int = 20,
        *,
        maxt: float = TEST_THRESHOLDS[0],
        mint: float = TEST_THRESHOLDS[1],
        backward: str = "caffe",
        erasing: bool = True,
        background: bool = True,
        share_background: bool = False,
        dropout: float = 0.5,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
    ):
        super().__init__()
        if share_background and not (erasing and background):
            raise ValueError("share_background needs S_B and S_C: set erasing and background")
        self.num_classes, self.dropout = num_classes, dropout
        self.erasing, self.background, self.share_background = erasing, background, share_background
        below = 3
        for names, width in zip(TRUNK, channels, strict=True):
            for name in names:
                self.add_module(f"conv{name}", nn.Conv2d(below, width, 3, padding=1))
                below = width
        self.mask_b2 = CReLU(maxt, mint, backward)
        self.mask_b3 = BackgroundMask((maxt + mint) / 2)
        for branch in ("b1", *["b2"] * erasing, *["b3"] * (background and not share_background)):
            self.add_module(f"conv1_{branch}", nn.Conv2d(below, below, 3, padding=1))
            self.add_module(f"conv2_{branch}", nn.Conv2d(below, below, 3, padding=1))
            self.add_module(f"score_{branch}", nn.Conv2d(below, num_classes, 1))
        self._initialise()

    def forward(self, data: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            data: (num, 3, height, width), BGR minus the mean (104.007, 116.669, 122.679).
            label: num · classes values, 1 for the classes whose attention is erased, in any shape.

        Returns:
            `(score_b1, score_b2)`, each (num, classes, ⌈height / 16⌉, ⌈width / 16⌉); without `erasing` only
            the first; in training mode with `background`, also `score_b3`.
        """
        if self.training and (self.mask_b2.maxt, self.mask_b2.mint) == TEST_THRESHOLDS:
            warnings.warn(_UNUSUAL, stacklevel=1)
        features = self.trunk(data)
        score_b1 = self.branch_a(features)
        scores = (score_b1,)
        if self.erasing:
            scores += (self.branch_b(features, score_b1, label),)
        if self.training and self.background:
            scores += (self.branch_c(features, score_b1, label),)
        return scores

    def trunk(self, data: Tensor) -> Tensor:
        """conv5_3, after its ReLU."""
        x = data
        for block, names in enumerate(TRUNK):
            if block:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            for name in names:
                x = F.relu(getattr(self, f"conv{name}")(x), inplace=True)
        return x

    def branch_a(self, features: Tensor) -> Tensor:
        """S_A: plain attention."""
        dropped = F.dropout(self._convs("b1", features), self.dropout, self.training)
        return self.score_b1(dropped)

    def branch_b(self, features: Tensor, score_b1: Tensor, label: Tensor) -> Tensor:
        """S_B: what S_A attends to is erased, what it ignores is negated."""
        return self.scores_of("b2", self.mask_b2(features, score_b1, label))

    def branch_c(self, features: Tensor, score_b1: Tensor, label: Tensor) -> Tensor:
        """S_C: only what S_A ignores is seen; trained to find no class there."""
        background = self.mask_b3(features, score_b1, label)
        return self.scores_of("b2" if self.share_background else "b3", background)

    def scores_of(self, branch: str, masked: Tensor) -> Tensor:
        """What the classifier "b2" or "b3" says of features that are masked already."""
        return getattr(self, f"score_{branch}")(self._convs(branch, masked))

    @classmethod
    def from_caffemodel(cls, path: str | os.PathLike, **settings: object) -> "SeeNet":
        """SeeNet with the weights of a file in any format that `weights` reads, in evaluation mode.

        The numbers of classes and channels are read off the file, and S_B and S_C are made where the file
        has them; S_C shares S_B's weights where the file has the same numbers for both. `settings` are the
        constructor's others, and replace what the file says of S_C.

        Raises:
            InputError: an unreadable file, NaN or infinite weights, or layers of SeeNet that it lacks.
        """
        where = os.fspath(path)
        source = read_weights(path, with_empty=True)
        check_finite(source, where)
        shapes = {layer.name: layer.present[0].shape for layer in source if layer.present}
        needed = [f"conv{name}" for names in TRUNK for name in names]
        erasing = any(name.endswith("_b2") for name in shapes)
        branches = ("b1", "b2") if erasing else ("b1",)
        needed += [f"{layer}_{branch}" for branch in branches for layer in BRANCH]
        missing = [name for name in needed if name not in shapes]
        if missing:
            raise InputError(
                f"{where}: not SeeNet's weights: {', '.join(missing)} missing. The released file is "
                f"seenet_final.caffemodel: {README} says where it comes from"
            )
        background = {"background": "score_b3" in shapes, "share_background": False}
        if erasing and _shares(source):
            background = {"background": True, "share_background": True}
        model = cls(
            num_classes=shapes["score_b1"][0],
            channels=[shapes[f"conv{names[0]}"][0] for names in TRUNK],
            erasing=erasing,
            **(background | settings),
        )
        model.copy_weights(source, where)
        return model.eval()

    def copy_weights(self, source: list[LayerWeights], where: str = "weights") -> list[str]:
        """Copy weights by layer name, as Caffe does. Returns the layers that SeeNet lacks.

        With `share_background` S_C's layers are S_B's under a second name: what the source has for both, the
        later one decides.

        Raises:
            InputError: a shape that differs.
        """
        blobs = {
            name: (conv.weight, conv.bias)
            for name, conv in self.named_children()
            if isinstance(conv, nn.Conv2d)
        }
        if not self.share_background:
            return copy_by_name(source, blobs, where)
        again = {f"{layer}_b3": blobs[f"{layer}_b2"] for layer in BRANCH}
        shared = {(layer, i) for layer in again for i in range(2)}
        return copy_by_name(source, blobs | again, where, shared)

    def _convs(self, branch: str, x: Tensor) -> Tensor:
        for name in ("conv1", "conv2"):
            x = F.relu(getattr(self, f"{name}_{branch}")(x), inplace=True)
        return x

    def _initialise(self) -> None:
        """[R]'s fillers for the branches. The trunk is meant to be loaded; until then, He's rule."""
        for name, module in self.named_children():
            if isinstance(module, nn.Conv2d):
                if name.endswith(("b1", "b2", "b3")):
                    nn.init.normal_(module.weight, std=0.01)
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)


def _shares(source: Sequence[LayerWeights]) -> bool:
    """Whether S_C's weights are S_B's, number for number, or left out as HDF5 leaves out what is shared."""
    by_name = {layer.name: layer.present for layer in source}
    pairs = [(by_name.get(f"{layer}_b2"), by_name.get(f"{layer}_b3")) for layer in BRANCH]
    return all(b2 and b3 is not None and (not b3 or _same(b2, b3)) for b2, b3 in pairs)


def _same(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return len(some) == len(others) and all(map(np.array_equal, some, others))
