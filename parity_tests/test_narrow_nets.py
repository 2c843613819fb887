"""Published nets of segmentation and optical flow, narrow, in our own text: they run, and both engines agree."""

import importlib

import numpy as np
import pytest

from parity_tests.recordings import ENGINES, NETS, PHASES, WHOLE_NET
from runtime import Net

OUTPUTS = {
    "dss": {f"sigmoid-{name}": (1, 1, 65, 81) for name in (*(f"dsn{i}" for i in range(1, 7)), "fuse")},
    "dss_resnet101": {
        f"sigmoid-{name}": (1, 1, 65, 81) for name in (*(f"dsn{i}" for i in range(2, 7)), "fuse")
    },
    "deeplab_v1": {"crf_inf": (1, 21, 65, 81)},
    "deeplab_v2_resnet101": {"fc1_interp": (1, 21, 65, 81)},
    **{name: {"predict_flow_final": (1, 2, 50, 75)} for name in ("flownet2", "flownet2_c", "flownet2_s")},
    "pspnet_resnet101": {"conv6_interp": (1, 21, 89, 89)},
    "segnet": {"argmax": (1, 1, 45, 60)},
}


def _filled(net: Net) -> None:
    """Weights that keep a deep net's values of one size, and an image."""
    draw = np.random.RandomState(8)
    for name, blobs in net.params.items():
        kind = net.layers[list(net._layer_names).index(name)].type
        for i, blob in enumerate(blobs):
            if kind == "DataAugmentation" or name == "flow_final":
                continue  # set by themselves: the mean image as the net runs, a size's scale by its filler
            if kind == "BatchNorm" or (kind == "BN" and i > 1):
                blob.data[...] = (
                    draw.uniform(0.5, 1.5, blob.shape) if i else draw.uniform(-0.1, 0.1, blob.shape)
                )
                if kind == "BatchNorm" and i == 2:
                    blob.data[...] = 1
            elif kind in ("Scale", "BN"):
                blob.data[...] = (
                    draw.uniform(-0.2, 0.2, blob.shape) if i else draw.uniform(0.4, 0.8, blob.shape)
                )
            else:
                bound = 0.1 if i else np.sqrt(6 / np.prod(blob.shape[1:]))
                blob.data[...] = draw.uniform(-bound, bound, blob.shape)
    for name in net.inputs:
        values = net.blobs[name].data
        values[...] = [values.shape[-2:]] if name == "data_dim" else draw.uniform(-1, 1, values.shape)
    if "data_dim" in net.blobs:
        net.blobs["data_dim"].data[...] = np.float32(net.blobs["data"].shape[2:])


@pytest.mark.parametrize("folder", OUTPUTS)
def test_engines_agree(folder: str) -> None:
    results = []
    for engine in ENGINES:
        caffe = importlib.import_module(f"{engine}.pycaffe")
        net = caffe.Net(str(NETS / folder / "narrow_deploy.prototxt"), PHASES["TEST"])
        _filled(net)
        net.forward()
        results.append({name: net.blobs[name].data.copy() for name in net.outputs})
    one, other = results
    assert {name: array.shape for name, array in one.items()} == OUTPUTS[folder]
    for name, array in one.items():
        assert array.std() > 0
        if name == "argmax":
            np.testing.assert_array_equal(other[name], array)
        else:
            assert np.abs(other[name] - array).max() <= WHOLE_NET * np.abs(array).max(), name
