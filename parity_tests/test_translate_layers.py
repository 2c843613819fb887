"""Every recorded layer, and layers drawn at random, as translated models: values and gradients as `CaffeNet`'s."""

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from parity_tests.drawn_layers import TYPES, Drawn, changed_layers, drawn_layers, known_layers
from parity_tests.recordings import PHASES, added, recorded
from parity_tests.translated import Translated, check_learning, translated
from port.net import CaffeNet
from port.translate.graph import TRANSLATIONS
from prototxt import parse_net
from prototxt.errors import InputError
from runtime.rng import set_random_seed

REFUSED = {
    "BN",  # SegNet's for inference, with further tops
    "SegAccuracy",  # that counts on
    "BoxAnnotatorOHEM",
    "CenterLoss",
    "DetectionEvaluate",  # in pixels of files
    "MultiBoxLoss",  # with settings that SSD does not use
    "SmoothL1LossOHEM",
    "SoftmaxWithLossOHEM",
    "SuperpixelPooling",
    "SuperpixelPoolingTest",
}
"""Types of recorded layers of which some, or all, have no counterpart."""


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Layers that write files write them here."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("translated"))
    yield
    os.chdir(before)


SUITES = ("layers", "deeplab_layers", *added("layer_cases"), "fork_layers", "fork_nets")
CASES = [pytest.param(suite, case, id=case["name"]) for suite in SUITES for case in recorded(suite)[0]]


@pytest.mark.parametrize(("suite", "case"), CASES)
def test_recorded_layer(suite: str, case: dict) -> None:
    arrays, net = recorded(suite)[1], parse_net(case["prototxt"])
    counts = case.get("params", {}) if suite != "fork_nets" else {}
    weights = {
        layer: [arrays[f"{case['name']}/param/{layer}/{i}"] for i in range(count)]
        for layer, count in counts.items()
    }
    inputs = {name: arrays[f"{case['name']}/in/{name}"] for name in case["inputs"]}
    try:
        made = _translated(net, PHASES[case["phase"]], 1, weights)
    except InputError as error:
        kinds = {layer.type for layer in net.layer}
        assert kinds & REFUSED and any(kind in str(error) for kind in kinds), error
        return
    _check_values(made, inputs)
    made = _translated(net, PHASES[case["phase"]], 1, weights)
    check_learning(made, inputs)


def _translated(net: object, phase: int, seed: int, weights: dict | None = None) -> Translated:
    set_random_seed(seed)
    return translated(net, phase, weights)


def _check_values(made: Translated, inputs: dict[str, np.ndarray]) -> None:
    ours, theirs = made.outputs(inputs)
    assert set(ours) == set(theirs)
    for name, top in theirs.items():
        due = top.detach().numpy()
        assert ours[name].numel() == due.size, f"{name}: {tuple(ours[name].shape)} for {due.shape}"
        largest = np.abs(due[np.isfinite(due)]).max(initial=0)
        found = ours[name].detach().numpy().reshape(due.shape)
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-5 * largest, err_msg=name)


def _judge(layers: SearchStrategy[Drawn], examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(layers)
    def judge(drawn: Drawn) -> None:
        _check_drawn(drawn)

    judge()


def _check_drawn(drawn: Drawn) -> None:
    """A layer that CaffeNet runs is translated rightly, or refused by one line."""
    phase = drawn.net.state.phase
    drawn.net.force_backward = False
    set_random_seed(drawn.seed)
    try:
        net = CaffeNet(drawn.net, phase, gradient="exact")
        names = {net.plan.blobs[i]: i for i in net.plan.inputs}
        ones = {name: np.ones(net.plan.shapes[i], np.float32) for name, i in names.items()}
        inputs = {name: drawn.values.get(name, ones[name]) for name in names}
        with np.errstate(all="ignore"):
            net.run({i: torch.from_numpy(inputs[name].copy()) for name, i in names.items()})
    except InputError:
        return
    marks = [inputs[name] for name in ("in1", "in2") if name in inputs]
    markers = drawn.net.layer[-1].type in ("LSTM", "RNN", "LSTMUnit")
    empty = any(0 in shape for shape in net.plan.shapes) or not all(map(np.ndim, inputs.values()))
    if empty or (markers and not all(map(_zeros_and_ones, marks))):
        return
    try:
        made = _translated(drawn.net, phase, drawn.seed)
    except InputError as error:
        assert "counterpart" in str(error) or not net.plan.outputs, error
        return
    _check_values(made, inputs)
    check_learning(_translated(drawn.net, phase, drawn.seed), inputs)


def _zeros_and_ones(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind in TRANSLATIONS])
def test_drawn_layers(kind: str) -> None:
    _judge(drawn_layers(kind), 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind in TRANSLATIONS])
def test_drawn_layers_at_length(kind: str) -> None:
    _judge(drawn_layers(kind), 200)


MARKED = {"LSTM", "RNN", "LSTMUnit", "Lstm"}
CHANGED = [kind for kind in sorted(known_layers()) if kind in TRANSLATIONS and kind not in MARKED]


@pytest.mark.parametrize("kind", CHANGED)
def test_changed_layers(kind: str) -> None:
    _judge(changed_layers(kind), 5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CHANGED)
def test_changed_layers_at_length(kind: str) -> None:
    _judge(changed_layers(kind), 100)
