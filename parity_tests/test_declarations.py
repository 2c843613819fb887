"""Both engines, and `CaffeNet`, accept and refuse the same layers, and make the same of those they accept."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

import port.pycaffe
import reference.pycaffe
from parity_tests.drawn_layers import (
    TYPES,
    Drawn,
    changed_layers,
    drawn_layers,
    known_layers,
    overwritten_layers,
)
from port.net import CaffeNet
from prototxt.errors import InputError
from prototxt.layers.declare import LAYER_TYPES
from runtime import Net
from runtime.rng import set_random_seed


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Layers that write files (MatWrite) write them here."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("drawn"))
    yield
    os.chdir(before)


NEAR = 1e-4
"""Relative to a blob's largest value: a wrong rule, not rounding, is what is looked for."""

KNOWN_IN_A_PASS = {
    **dict.fromkeys(("BoxOutput", "DecodeBBox", "Filter", "ProposalTarget"), 0),
    **dict.fromkeys(("SuperpixelPooling", "SuperpixelPoolingTest"), 0),
    **dict.fromkeys(("DetectionEvaluate", "DetectionOutput"), 2),
    **dict.fromkeys(("YoloDetectionOutput", "Yolov3DetectionOutput"), 2),
}
"""Types with an axis of which the size is known in a forward pass only."""


def _judge(layers: SearchStrategy[Drawn], examples: int, **options: Any) -> int:
    """Judge so many layers; how many of them were accepted."""
    accepted = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(layers)
    def judge(drawn: Drawn) -> None:
        nonlocal accepted
        accepted += of_one_mind(drawn)

    judge()
    return accepted


@pytest.mark.parametrize("kind", TYPES)
def test_of_one_mind(kind: str) -> None:
    _judge(drawn_layers(kind), 20, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_of_one_mind_at_length(kind: str) -> None:
    if not _judge(drawn_layers(kind), 500):
        pytest.skip("none of 500 was accepted: tell drawn_layers what bottoms and settings this type takes")


@pytest.mark.parametrize("kind", sorted(known_layers()))
def test_changed_layers(kind: str) -> None:
    """Near layers that run: what draws from nothing hardly ever reach."""
    _judge(changed_layers(kind), 10, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(known_layers()))
def test_changed_layers_at_length(kind: str) -> None:
    assert _judge(changed_layers(kind), 300)


REREADING = [
    kind for kind in sorted(known_layers()) if LAYER_TYPES[kind].reads_bottoms or LAYER_TYPES[kind].reads_tops
]


@pytest.mark.parametrize("kind", REREADING)
def test_overwritten_blobs(kind: str) -> None:
    """The reference's blobs are memory, as Caffe's; the port's are tensors of an autograd graph."""
    _judge(overwritten_layers(kind), 10, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REREADING)
def test_overwritten_blobs_at_length(kind: str) -> None:
    assert _judge(overwritten_layers(kind), 300)


def of_one_mind(drawn: Drawn) -> bool:
    """Whether the layer is accepted, by all.

    Raises:
        AssertionError: the three differ; anything but an InputError goes on as it is.
    """
    phase = drawn.net.state.phase
    inputs = dict(drawn.values)
    builds: list[Callable[[], Any]] = [
        lambda: reference.pycaffe.Net.from_message(drawn.net, phase),
        lambda: port.pycaffe.Net.from_message(drawn.net, phase),
        lambda: CaffeNet(drawn.net, phase),
    ]
    nets = [_outcome(build, drawn.seed) for build in builds]
    if any(isinstance(net, str) for net in nets):
        assert nets[0] == nets[1] == nets[2], f"not all refuse it, or not with one message: {nets}"
        return False
    plan, tops = nets[0].plan.layers[-1], nets[0].outputs
    for name in nets[0].inputs:  # an Input layer that was drawn
        inputs.setdefault(name, np.ones(nets[0].blobs[name].shape, np.float32))
    passes = [lambda: _forward(nets[0], inputs, tops), lambda: _forward(nets[1], inputs, tops)]
    passes.append(lambda: _module_forward(nets[2], inputs, tops))
    first, *others = (_outcome(run, drawn.seed) for run in passes)
    for other in others:
        if isinstance(first, str) or isinstance(other, str):
            assert first == other, "one refuses the values"
            continue
        for name, mine, theirs in zip(tops, first, other, strict=True):
            _check_near(theirs, mine, name)
    if isinstance(first, str):
        return False
    for index, shape in zip(plan.tops, plan.declared.tops, strict=True):
        found = nets[0].blobs[nets[0].plan.blobs[index]].shape
        wrong = [axis for axis, (size, due) in enumerate(zip(found, shape, strict=True)) if size != due]
        assert set(wrong) <= {KNOWN_IN_A_PASS.get(plan.type)}, f"top {index} is {found}, declared as {shape}"
    if not (plan.type == "DenseBlock" and phase == 1):  # divides by a variance of 0 there: 1e28 and more
        _check_backward(nets[:2], drawn, tops)
    return True


def _outcome(run: Callable[[], Any], seed: int) -> Any:
    """What `run` gives, or the text of its InputError."""
    set_random_seed(seed)
    try:
        with np.errstate(all="ignore"):
            return run()
    except InputError as error:
        return str(error)


def _forward(net: Net, inputs: dict[str, np.ndarray], tops: list[str]) -> list[np.ndarray]:
    for name, value in inputs.items():
        net.blobs[name].data[...] = value.reshape(net.blobs[name].shape)  # in place, MVN gives it 4 axes
    net.forward()
    return [net.blobs[name].data.copy() for name in tops]


def _module_forward(net: CaffeNet, inputs: dict[str, np.ndarray], tops: list[str]) -> list[np.ndarray]:
    made = net(**{name: torch.from_numpy(value.copy()) for name, value in inputs.items()}, blobs=tops)
    return [made[name].detach().numpy() for name in tops]


def _check_backward(nets: list[Net], drawn: Drawn, tops: list[str]) -> None:
    """The gradients of the bottoms and the weights, from the same at the tops, where both engines give one."""
    given = [
        np.random.RandomState(i).standard_normal(nets[0].blobs[name].shape) for i, name in enumerate(tops)
    ]

    def run(net: Net) -> list[np.ndarray]:
        for name, diff in zip(tops, given, strict=True):
            net.blobs[name].diff[...] = diff
        net.clear_param_diffs()
        net.backward()
        weights = [blob.diff for blobs in net.params.values() for blob in blobs]
        return [net.blobs[name].diff for name in drawn.values] + weights

    mine, theirs = (_outcome(lambda net=net: run(net), drawn.seed) for net in nets)
    if isinstance(mine, str) or isinstance(theirs, str):
        assert isinstance(mine, str) and isinstance(theirs, str), f"one has a gradient: {mine}, {theirs}"
        return
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        _check_near(b, a, f"gradient {i}", scale=1.0)  # the tops' gradients are of this size


def _check_near(actual: np.ndarray, wanted: np.ndarray, what: str, scale: float = 0.0) -> None:
    assert actual.shape == wanted.shape, f"{what}: shapes {actual.shape} and {wanted.shape}"
    finite = wanted[np.isfinite(wanted)]
    largest = max(float(np.abs(finite).max(initial=0)), scale)
    np.testing.assert_allclose(actual, wanted, rtol=NEAR, atol=NEAR * largest, err_msg=what)
