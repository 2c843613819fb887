"""Every recorded layer and net of Caffe's forks, on both engines (reference/golden/README.md)."""

import importlib

import numpy as np
import pytest

from parity_tests.recordings import (
    ENGINES,
    ONE_LAYER,
    PHASES,
    WHOLE_NET,
    error,
    he_uniform,
    recorded,
    sampled,
)
from parity_tests.test_layers import run_case
from prototxt import parse_net
from runtime import Net


def _cases(suite: str) -> list:
    """Each case on each engine."""
    return [
        pytest.param(engine, case, id=f"{engine}-{case['name']}")
        for engine in ENGINES
        for case in recorded(suite)[0]
    ]


@pytest.mark.parametrize(("engine", "case"), _cases("fork_layers"))
def test_fork_layer_equals_recording(engine: str, case: dict) -> None:
    net = run_case(importlib.import_module(f"{engine}.pycaffe"), "fork_layers", case)
    for blob in case["outputs"]:
        _near(net.blobs[blob].data, _array(case, "out", blob), blob)
    for layer, count in case["params"].items():
        for i in range(count):
            after = _array(case, "param_after", layer, i)
            if after is not None:
                _near(net.params[layer][i].data, after, f"{layer}[{i}] after the steps")
    if case["backward"]:
        _check_backward(net, case)


def _check_backward(net: Net, case: dict) -> None:
    """Gradients of the bottoms that the layer propagates to, and of the weights.

    Those of the `_by` layers are not recorded: each multiplies a bottom by one learnt number, so that a layer
    which stops the program under `force_backward` gets a gradient all the same.
    """
    for blob in case["outputs"]:
        outdiff = _array(case, "outdiff", blob)
        if outdiff is not None:
            net.blobs[blob].diff[...] = outdiff
    net.clear_param_diffs()
    net.backward()
    for blob in case["inputs"]:
        indiff = _array(case, "indiff", blob)
        if indiff is not None:
            _near(net.blobs[blob].diff, indiff, f"gradient of {blob}")
    for layer, count in case["params"].items():
        if layer.endswith("_by"):
            continue
        for i in range(count):
            paramdiff = _array(case, "paramdiff", layer, i)
            if paramdiff is not None:
                _near(net.params[layer][i].diff, paramdiff, f"gradient of {layer}[{i}]")
            else:
                assert not net.params[layer][i].diff.any(), f"gradient of {layer}[{i}] is zero in Caffe"


def _near(actual: np.ndarray, golden: np.ndarray, what: str) -> None:
    """Within ONE_LAYER, and not a number at the same places."""
    odd = np.isnan(golden)
    np.testing.assert_array_equal(np.isnan(actual), odd, what)
    assert error(np.where(odd, 0, actual), np.where(odd, 0, golden)) <= ONE_LAYER, what


def _array(case: dict, *keys: object) -> np.ndarray | None:
    return recorded("fork_layers")[1].get("/".join(map(str, (case["name"], *keys))))


@pytest.mark.parametrize(("engine", "case"), _cases("fork_nets"))
def test_fork_net_equals_recording(engine: str, case: dict) -> None:
    """Forward passes of whole nets: every blob's shape, its samples against its largest value, the outputs."""
    arrays = recorded("fork_nets")[1]
    caffe = importlib.import_module(f"{engine}.pycaffe")
    net = caffe.Net.from_message(parse_net(case["prototxt"]), PHASES[case["phase"]])
    drawn = {
        name: [blob.data.shape for blob in blobs]
        for name, blobs in net.params.items()
        if name not in case["stored_params"]
    }
    for name, weights in he_uniform(drawn, case["weights"]["seed"]).items():
        for blob, values in zip(net.params[name], weights, strict=True):
            blob.data[...] = values
    for name, count in case["stored_params"].items():
        assert len(net.params[name]) == count
        for i, blob in enumerate(net.params[name]):
            blob.data[...] = arrays[f"{case['name']}/param/{name}/{i}"]
    for name in case["inputs"]:
        net.blobs[name].data[...] = arrays[f"{case['name']}/in/{name}"]
    net.forward()
    assert set(net.blobs) == set(case["blobs"])
    for name, shape in case["blobs"].items():
        data = net.blobs[name].data
        assert list(data.shape) == shape, name
        sample, largest = (arrays[f"{case['name']}/{kind}/{name}"] for kind in ("sample", "absmax"))
        assert error(sampled(data), sample, scale=float(largest)) <= WHOLE_NET, name
    for name in case["outputs"]:
        assert error(net.blobs[name].data, arrays[f"{case['name']}/out/{name}"]) <= WHOLE_NET, name
