"""Each layer of an engine alone: its tops held against what float64 makes of the engine's own bottoms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity_tests.compare.rule import Errors, chain_error, difference
from port.net_inputs import index_bottoms
from prototxt.plan import LayerPlan, Plan

ENOUGH = 256
"""Values by which the float32 reference's error is known well enough; smaller tops are sampled again."""
MOST_SAMPLES = 32
MOST_WORK = 1 << 22
"""Bottoms' values in all samples of one layer."""
NUDGE = 2.0**-6
"""The standard deviation of the factors by which a further sample's bottoms differ from the engine's."""


@dataclass
class Alone:
    """Two reference nets, float64 and float32, that go along with an engine's net, layer by layer.

    After each layer both hold what the engine made of it. So the next layer is run on the engine's own values,
    which reach it as the plan says and not as the engine may have mixed them up.

    Attributes:
        exact, rough: the float64 and the float32 net, with weights and inputs.
        sources: what the layers without bottoms (data layers) give, by layer index.
    """

    plan: Plan
    exact: Any
    rough: Any
    sources: dict[int, list[np.ndarray]]

    def judge(self, index: int, tops: Sequence[np.ndarray]) -> list[Errors]:
        """The errors of a layer's tops, as an engine made them; then the nets go on from these tops."""
        layer = self.plan.layers[index]
        if layer.type == "Input" or not layer.tops:
            return []
        if layer.bottoms:
            errors = self._errors(layer, tops)
        else:
            errors = [Errors.of(top, truth) for top, truth in zip(tops, self.sources[index], strict=True)]
        self.follow(index, tops)
        return errors

    def follow(self, index: int, tops: Sequence[np.ndarray]) -> None:
        """Go on from an engine's tops without judging them."""
        for net in (self.exact, self.rough):
            for blob, top in zip(self.plan.layers[index].tops, tops, strict=True):
                net._blobs[blob].reshape(*top.shape)
                net._blobs[blob].data[...] = top
            net.layers[index] = None  # what it keeps for a backward pass is as large as its blobs

    def _errors(self, layer: LayerPlan, tops: Sequence[np.ndarray]) -> list[Errors]:
        repeats = self._repeats(layer)
        before = [self.rough._blobs[i].data.copy() for i in layer.bottoms] if repeats else []
        truth, first = self._run(layer)
        own = [[difference(a, b)] for a, b in zip(first, truth, strict=True)]
        generator = np.random.RandomState(0)
        for _ in range(repeats):
            self._nudge(layer, before, generator)
            exact, rough = self._run(layer)
            for samples, a, b in zip(own, rough, exact, strict=True):
                samples.append(difference(a, b))
        for i, array in zip(layer.bottoms, before, strict=False):  # others may read them, too
            for net in (self.exact, self.rough):
                net._blobs[i].data[...] = array
        chains = self._chains(layer, truth)
        return [Errors.of(*each) for each in zip(tops, truth, own, chains, strict=True)]

    def _chains(self, layer: LayerPlan, truth: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """For each value of the tops how far one chain of float32 sums is likely to be off; see `rule.py`."""
        terms = _terms(layer)
        if not terms:
            return [None] * len(truth)
        blobs = [self.rough._blobs[i] for i in dict.fromkeys(layer.bottoms)]
        blobs += self.rough.layers[layer.index].blobs
        before = [blob.data.copy() for blob in blobs]
        for blob in blobs:
            np.abs(blob.data, out=blob.data)
        self.rough._forward(layer.index, layer.index)
        for blob, array in zip(blobs, before, strict=True):
            blob.data[...] = array
        return [
            chain_error(self.rough._blobs[i].data, terms, y) for i, y in zip(layer.tops, truth, strict=True)
        ]

    def _run(self, layer: LayerPlan) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The tops in float64 and in float32, copied: a top may lie in a bottom's memory."""
        made = []
        for net in (self.exact, self.rough):
            net._forward(layer.index, layer.index)
            made.append([net._blobs[i].data.copy() for i in layer.tops])
        return made[0], made[1]

    def _repeats(self, layer: LayerPlan) -> int:
        if layer.declared.script:  # it may keep a state
            return 0
        least = min(math.prod(self.plan.shapes[i]) for i in layer.tops)
        work = sum(math.prod(self.plan.shapes[i]) for i in layer.bottoms)
        return min(MOST_SAMPLES, ENOUGH // max(least, 1), max(3, MOST_WORK // max(work, 1)))

    def _nudge(self, layer: LayerPlan, before: Sequence[np.ndarray], generator: Any) -> None:
        """Give both nets bottoms near the engine's, the same to both; labels and indices as they are."""
        for k, (i, array) in enumerate(zip(layer.bottoms, before, strict=True)):
            nudged = array
            if k not in index_bottoms(layer.type):
                nudged = array * (1 + NUDGE * generator.standard_normal(array.shape)).astype(np.float32)
            for net in (self.exact, self.rough):
                net._blobs[i].data[...] = nudged


def _terms(layer: LayerPlan) -> int:
    """How many products a value of the top is the sum of; 0 for layers that are no such sums."""
    if layer.type not in ("Convolution", "Deconvolution", "InnerProduct"):
        return 0
    shape = layer.declared.weights[0].shape
    if layer.type == "Deconvolution":
        return math.prod(shape) // (shape[1] * layer.param.convolution_param.group)
    transposed = layer.type == "InnerProduct" and layer.param.inner_product_param.transpose
    return shape[0] if transposed else math.prod(shape[1:])
