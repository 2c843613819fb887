"""Fillers and dropout masks as nets draw them: exactly genuine Caffe's, seed for seed."""

from types import ModuleType

import numpy as np
import pytest

from parity_tests.recordings import recorded
from prototxt import parse_net
from runtime import TRAIN

CASES, ARRAYS = recorded("rng")


def _cases(kind: str) -> list:
    return [pytest.param(case, id=case["name"]) for case in CASES if case["name"].startswith(kind)]


def test_every_case_is_judged() -> None:
    assert len(_cases("filler")) + len(_cases("dropout")) == len(CASES)


@pytest.mark.parametrize("case", _cases("filler"))
def test_fillers(caffe: ModuleType, case: dict) -> None:
    caffe.set_random_seed(case["seed"])
    net = caffe.Net.from_message(parse_net(case["net"]), TRAIN)
    for key in case["arrays"]:
        layer, index = key.split("/")
        assert np.array_equal(net.params[layer][int(index)].data, ARRAYS[f"{case['name']}/{key}"]), key


@pytest.mark.parametrize("case", _cases("dropout"))
def test_dropout_masks(caffe: ModuleType, case: dict) -> None:
    net = caffe.Net.from_message(parse_net(case["net"]), TRAIN)
    for name in net.inputs:
        net.blobs[name].data[...] = 1
    caffe.set_random_seed(case["seed"])
    passes = sorted({key.split("/")[0] for key in case["arrays"]})
    for step in passes:
        net.forward()
        for key in case["arrays"]:
            if key.startswith(f"{step}/"):
                blob = key.split("/")[1]
                assert np.array_equal(net.blobs[blob].data, ARRAYS[f"{case['name']}/{key}"]), key
