"""The first pass of SeeNet's training: blobs, losses and all gradients, against genuine Caffe."""

from types import ModuleType

import numpy as np
import pytest

from parity_tests.recordings import NET_GRADIENT, WHOLE_NET, error, fill_he_uniform, recorded, sampled
from prototxt import parse_net
from runtime import TRAIN

CASES, ARRAYS = recorded("seenet_train")


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in CASES])
def test_first_pass_and_gradients(caffe: ModuleType, case: dict) -> None:
    name, data = case["name"], case["data"]
    net = caffe.Net.from_message(parse_net(case["net"]), TRAIN, allow_modules=())
    fill_he_uniform(net, case["weights"]["seed"])
    pixels = ARRAYS[f"{name}/{data['from']}"][0].astype(np.float32)
    net.blobs["data"].data[...] = (pixels - data["minus"]) / np.float32(data["over"])
    net.blobs["label"].data[...] = ARRAYS[f"{name}/label"][0]
    net.forward()
    for key, golden in _arrays(name, "first"):
        blob = net.blobs[key].data
        assert error(blob, golden) <= WHOLE_NET, key
        if key.startswith("mask"):
            assert np.array_equal(np.sign(blob), np.sign(golden)), f"{key}: an erasing decision differs"
    net.clear_param_diffs()
    net.backward()
    for key, golden in _arrays(name, "firstgrad"):
        layer, index = key.rsplit("/", 1)
        diff = net.params[layer][int(index)].diff
        actual = sampled(diff) if case["sampled"] else diff
        assert error(actual, golden, np.abs(diff).max()) <= NET_GRADIENT, key


def _arrays(*prefix: str) -> list[tuple[str, np.ndarray]]:
    start = "/".join(prefix) + "/"
    found = [(key[len(start) :], array) for key, array in ARRAYS.items() if key.startswith(start)]
    assert found, f"nothing recorded under {start}"
    return found
