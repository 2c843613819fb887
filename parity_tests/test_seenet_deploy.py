"""The released SeeNet: every blob, the heads, and the notebook's procedure, against genuine Caffe."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

import port
from parity_tests.recordings import NETS, WHOLE_NET, error, fill_he_uniform, recorded, sampled, seenet_weights
from port.attention.maps import MEAN_BGR
from reference import published_forward
from runtime import TEST, Net

ABOUT, ARRAYS = recorded("seenet_deploy")
SEED = ABOUT["weights"]["seed"]


def _by_name(cases: list[dict]) -> list:
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.fixture(scope="module", params=("reference", "port"))
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    caffe: ModuleType = __import__(f"{request.param}.pycaffe", fromlist=["pycaffe"])
    net = caffe.Net(str(NETS / "seenet" / "deploy.prototxt"), TEST)
    fill_he_uniform(net, SEED)
    return net


@pytest.fixture(scope="module")
def model() -> port.SeeNet:
    model = port.SeeNet(background=False)
    model.copy_weights(seenet_weights(model, SEED))
    return model.eval()


@pytest.mark.parametrize("case", _by_name(ABOUT["blob_cases"]))
def test_every_blob(net: Net, case: dict) -> None:
    feed(net, ARRAYS[f"{case['name']}/image"], case["labels"])
    net.forward()
    assert list(net.blobs) == list(case["blobs"])
    for name, about in case["blobs"].items():
        check_blob(net.blobs[name].data, case["name"], name, about)


def feed(net: Net, image: np.ndarray, labels: list[int]) -> None:
    data = (image.astype(np.float64) - np.array(MEAN_BGR)).transpose(2, 0, 1)
    net.blobs["data"].reshape(1, *data.shape)
    net.blobs["data"].data[...] = data
    net.blobs["label"].reshape(1, 1, 1, 20)
    net.blobs["label"].data[...] = 0
    net.blobs["label"].data[0, 0, 0, labels] = 1


def check_blob(data: np.ndarray, case: str, name: str, about: dict) -> None:
    assert list(data.shape) == about["shape"], name
    largest = max(abs(about["max"]), abs(about["min"]))
    exact = data.astype(np.float64)
    assert abs(exact.sum() - about["sum"]) <= WHOLE_NET * about["abs_sum"], name
    assert abs(np.abs(exact).sum() - about["abs_sum"]) <= WHOLE_NET * about["abs_sum"], name
    assert abs(exact.max() - about["max"]) <= WHOLE_NET * largest, name
    assert abs(exact.min() - about["min"]) <= WHOLE_NET * largest, name
    if f"{case}/sample/{name}" in ARRAYS:
        assert error(sampled(data), ARRAYS[f"{case}/sample/{name}"], largest) <= WHOLE_NET, name
    full = ARRAYS.get(f"{case}/full/{name}")
    if full is not None:
        assert error(data, full) <= WHOLE_NET, name
        if name == "mask_b2":
            assert np.array_equal(np.sign(data), np.sign(full)), "a C-ReLU decision differs"


def assert_close(actual: np.ndarray, recorded: str) -> None:
    away = error(actual, ARRAYS[recorded])
    assert away <= WHOLE_NET, f"{recorded} is {away:.1e} away"


@pytest.mark.parametrize("case", _by_name(ABOUT["notebook_cases"]))
def test_published_procedure(net: Net, case: dict) -> None:
    name, size = case["name"], case["test_size"]
    image = ARRAYS[f"{name}/image"].astype(np.float64)
    net.blobs["label"].reshape(1, 1, 1, 20)
    net.blobs["label"].data[...] = 0
    for label in case["labels"]:
        plain = published_forward(net, image, label, size)
        for blob in ("score_b1", "score_b2"):
            scores = net.blobs[blob].data[0]
            golden = ARRAYS[f"{name}/{label}/{blob}"]
            assert error(scores[label], golden, np.abs(scores).max()) <= WHOLE_NET, blob
        assert_close(plain, f"{name}/{label}/att")
        mirrored = published_forward(net, image[:, ::-1, :], label, size)
        fused = np.maximum(plain, mirrored[:, ::-1])
        assert_close(fused, f"{name}/{label}/att_flip_fused")
    assert net.blobs["label"].data.ravel().tolist() == case["label_blob_after"]


@pytest.mark.parametrize("case", _by_name(ABOUT["notebook_cases"]))
def test_attention_maps(model: port.SeeNet, case: dict) -> None:
    name, labels = case["name"], case["labels"]
    image = ARRAYS[f"{name}/image"]
    plain = port.attention_maps(model, image, labels, case["test_size"], flip=False)
    fused = port.attention_maps(model, image, labels, case["test_size"])
    for i, label in enumerate(labels):
        assert_close(plain[i], f"{name}/{label}/att")
        assert_close(fused[i], f"{name}/{label}/att_flip_fused")


def test_module_equals_its_prototxt(model: port.SeeNet) -> None:
    """SeeNet, the module, gives the scores of CaffeNet on the prototxt for a batch of unlike images."""
    import torch

    net = port.CaffeNet(NETS / "seenet" / "deploy.prototxt")
    net.load_state_dict(model.state_dict())
    data = 50 * torch.randn(3, 3, 45, 70, generator=torch.Generator().manual_seed(1))
    label = torch.zeros(3, 20)
    label[0, 3] = label[1, [5, 9]] = 1
    with torch.no_grad():
        ours = model(data, label)
        theirs = net(data, label, blobs=["score_b1", "score_b2"])
    for score, name in zip(ours, ("score_b1", "score_b2"), strict=True):
        assert error(score.numpy(), theirs[name].numpy()) <= 1e-6, name
