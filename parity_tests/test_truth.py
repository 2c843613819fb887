"""The port against a float64 computation: no further from it than 1.5 times the float32 reference."""

import numpy as np
import pytest

import port.pycaffe
import reference.pycaffe
from parity_tests.recordings import NETS, error, fill_he_uniform, recorded
from parity_tests.test_seenet_deploy import feed
from runtime import TEST

ABOUT, ARRAYS = recorded("seenet_deploy")


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in ABOUT["blob_cases"]])
def test_every_blob_of_seenet(case: dict) -> None:
    deploy = str(NETS / "seenet" / "deploy.prototxt")
    truth = reference.pycaffe.Net(deploy, TEST, dtype=np.float64)
    yardstick, ours = reference.pycaffe.Net(deploy, TEST), port.pycaffe.Net(deploy, TEST)
    for net in (truth, yardstick, ours):
        fill_he_uniform(net, ABOUT["weights"]["seed"])
        feed(net, ARRAYS[f"{case['name']}/image"], case["labels"])
        net.blobs["data"].data[...] = net.blobs["data"].data.astype(np.float32)
        net.forward()
    for name, blob in truth.blobs.items():
        allowed = 1.5 * error(yardstick.blobs[name].data, blob.data) + 1e-7
        assert error(ours.blobs[name].data, blob.data) <= allowed, name
    exact, mask = truth.blobs["mask_b2"].data, ours.blobs["mask_b2"].data
    assert np.array_equal(exact == 0, mask == 0), "a C-ReLU decision differs"
