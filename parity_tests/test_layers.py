"""Every recorded layer, forward and backward, on both engines."""

import importlib
from types import ModuleType

import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, PHASES, added, error, recorded
from prototxt import parse_net
from runtime import Net

SUITES = ("layers", "deeplab_layers", *added("layer_cases"))


def _cases() -> list:
    return [
        pytest.param(engine, suite, case, id=f"{engine}-{case['name']}")
        for engine in ENGINES
        for suite in SUITES
        for case in recorded(suite)[0]
    ]


@pytest.mark.parametrize(("engine", "suite", "case"), _cases())
def test_layer_equals_recording(engine: str, suite: str, case: dict) -> None:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    net = run_case(caffe, suite, case)
    for blob in case["outputs"]:
        assert error(net.blobs[blob].data, _array(suite, case, "out", blob)) <= ONE_LAYER, blob
    for layer, count in case["params"].items():
        for i in range(count):
            after = _array(suite, case, "param_after", layer, i)
            if after is not None:
                assert error(net.params[layer][i].data, after) <= ONE_LAYER, f"{layer}[{i}] after the steps"
    if case["backward"]:
        _check_backward(net, suite, case)


def run_case(caffe: ModuleType, suite: str, case: dict) -> Net:
    """The case's net after its forward passes."""
    net = caffe.Net.from_message(parse_net(case["prototxt"]), PHASES[case["phase"]])
    for layer, count in case["params"].items():
        assert len(net.params[layer]) == count
        for i in range(count):
            net.params[layer][i].data[...] = _array(suite, case, "param", layer, i)
    for blob in case["inputs"]:
        net.blobs[blob].data[...] = _array(suite, case, "in", blob)
    if case["random_seed"] is not None:
        caffe.set_random_seed(case["random_seed"])
    for _ in range(case["steps"]):
        net.forward()
    return net


def _check_backward(net: Net, suite: str, case: dict) -> None:
    for blob in case["outputs"]:
        outdiff = _array(suite, case, "outdiff", blob)
        if outdiff is not None:
            net.blobs[blob].diff[...] = outdiff
    net.clear_param_diffs()
    net.backward()
    for blob in case["inputs"]:
        indiff = _array(suite, case, "indiff", blob)
        if indiff is not None:
            assert error(net.blobs[blob].diff, indiff) <= ONE_LAYER, f"gradient of {blob}"
        else:
            assert not net.blobs[blob].diff.any(), f"gradient of {blob} is zero in Caffe"
    for layer, count in case["params"].items():
        for i in range(count):
            paramdiff = _array(suite, case, "paramdiff", layer, i)
            if paramdiff is not None:
                assert error(net.params[layer][i].diff, paramdiff) <= ONE_LAYER, f"gradient of {layer}[{i}]"
            else:
                assert not net.params[layer][i].diff.any(), f"gradient of {layer}[{i}] is zero in Caffe"


def _array(suite: str, case: dict, *keys: object):
    return recorded(suite)[1].get("/".join(map(str, (case["name"], *keys))))
