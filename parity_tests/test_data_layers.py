"""Data layers: the recorded runs' batches, Caffe's draws, reading ahead, resuming, and bad input."""

import importlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import h5py
import lmdb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import port.layers.data as data_layers
import port.pycaffe
from parity_tests.recordings import ENGINES, GOLDEN, NETS, recorded
from port.caffe_layers.voc_data import DEFAULTS, VocImages
from port.net import CaffeNet
from port.voc.label_images import write_label_image
from prototxt import read_solver
from prototxt.caffe_pb2 import Datum, NetParameter, NetState, TransformationParameter
from prototxt.errors import InputError
from prototxt.read import parse_net, read_net
from prototxt.rules import layer_included
from runtime import Net, c_random
from runtime.data.reading import read_labelled_list, read_labels
from runtime.data.transformer import PairTransformer, Transformer
from runtime.rng import CaffeRNG, caffe_rng, set_random_seed
from weights import write_binaryproto

TRAIN, TEST = 0, 1


# ---- The recorded runs


@pytest.mark.parametrize("run", ["train_run", "seg_train_run"])
def test_recorded_run_sees_the_recorded_batches(run: str, caffe: ModuleType, monkeypatch: pytest.MonkeyPatch):
    """Losses follow the log only where weights, order, crops, mirrors and dropout are genuine Caffe's."""
    monkeypatch.chdir(GOLDEN / run)
    solver = read_solver("solver.prototxt")
    set_random_seed(solver.random_seed)
    net = caffe.Net(solver.net or solver.train_net, TRAIN)
    if solver.test_interval:
        test = caffe.Net(solver.net, TEST)
        test.share_with(net)
        _hold_tests_against_the_log(test, solver.test_iter[0])
    told, other = (_logged_losses(name) for name in ("train.log", "train.other_blas.log"))
    rates = [float(rate) for rate in re.findall(r", lr = (\S+)", Path("train.log").read_text())]
    learned = [
        (blob, spec, np.zeros_like(blob.data))
        for plan, blobs in zip(net.plan.layers, (layer.blobs for layer in net.layers), strict=True)
        for blob, spec in zip(blobs, plan.params, strict=True)
    ]
    for iteration in range(15):
        net.clear_param_diffs()
        for _ in range(solver.iter_size):
            loss = net._forward(0, len(net.layers) - 1)
            net.backward()
        noise = abs(told[iteration] - other[iteration])
        assert abs(loss - told[iteration]) <= max(1e-4, 6 * noise), f"iteration {iteration}"
        for blob, spec, history in learned:
            slope = blob.diff / solver.iter_size + solver.weight_decay * spec.decay_mult * blob.data
            history[...] = solver.momentum * history + rates[iteration] * spec.lr_mult * slope
            blob.data[...] -= history


def _logged_losses(log: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"Train net output #0: loss = (\S+)", Path(log).read_text())]


def _hold_tests_against_the_log(net: Net, passes: int) -> None:
    sums: dict[str, float] = {}
    for _ in range(passes):
        for name, value in net.forward().items():
            sums[name] = sums.get(name, 0) + value.item()
    lines = re.findall(r"Test net output #\d+: (\w+) = (\S+)", Path("train.log").read_text())
    for name, told in lines[: len(sums)]:
        assert sums[name] / passes == pytest.approx(float(told), abs=1e-5)


# ---- Layers on files made here


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: ten images of unlike sizes, label images, HDF5 files, and lists of them."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(5)
    for name in ("images", "labels", "lmdb"):
        (tmp_path / name).mkdir()
    for i in range(10):
        size = 20 + i % 3, 24 - i % 4
        cv2.imwrite(f"images/{i}.png", draw.randint(0, 256, (*size, 3), np.uint8))
        cv2.imwrite(f"labels/{i}.png", draw.randint(0, 5, size, np.uint8))
    Path("list.txt").write_text("".join(f"images/{i}.png {i % 4}\n" for i in range(10)))
    Path("pairs.txt").write_text("".join(f"images/{i}.png labels/{i}.png\n" for i in range(10)))
    Path("voc.txt").write_text("".join(f"{i} {i % 4} {10 + i % 5}\n" for i in range(10)))
    for n in range(2):
        with h5py.File(f"rows{n}.h5", "w") as file:
            file["data"] = np.arange(7 * 3).reshape(7, 3) + 100 * n
            file["label"] = np.arange(7) + 10 * n
    Path("h5.txt").write_text("rows0.h5\nrows1.h5\n")
    return tmp_path


@pytest.fixture
def database(folder: Path) -> Path:
    """An LMDB beside it: raw bytes, floats and encoded images of one size."""
    draw = np.random.RandomState(6)
    with lmdb.open("lmdb", map_size=1 << 20) as environment, environment.begin(write=True) as writing:
        for i in range(10):
            pixels = draw.randint(0, 256, (3, 12, 14), np.uint8)
            datum = Datum(channels=3, height=12, width=14, label=i)
            if i % 3 == 0:
                datum.data = pixels.tobytes()
            elif i % 3 == 1:
                datum.float_data.extend(pixels.ravel().tolist())
            else:
                datum = Datum(data=_png(pixels.transpose(1, 2, 0)), label=i, encoded=True)
            writing.put(f"{i:08}".encode(), datum.SerializeToString())
    return folder


def _png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


AUGMENT = "transform_param { mirror: true crop_size: 11 mean_value: 104 mean_value: 117 mean_value: 123 }"
VOC = "{'list': 'voc.txt', 'images': 'images', 'suffix': '.png', "

LAYERS = {
    "ImageData": f'type: "ImageData" {AUGMENT} '
    'image_data_param { source: "list.txt" batch_size: 3 shuffle: true rand_skip: 4 }',
    "ImageSegData": 'type: "ImageSegData" transform_param { mirror: true crop_size: 23 mean_value: 90 } '
    'image_data_param { source: "pairs.txt" batch_size: 3 shuffle: true }',
    "ImageSegData of 3 tops": 'type: "ImageSegData" top: "size" transform_param { mirror: true crop_size: 23 '
    'mean_value: 90 } image_data_param { source: "pairs.txt" batch_size: 3 shuffle: true label_type: PIXEL }',
    "ImageLabelmapData": 'type: "ImageLabelmapData" transform_param { mirror: true crop_size: 11 mean_value: 90 } '
    'image_data_param { source: "pairs.txt" batch_size: 3 shuffle: true }',
    "DenseImageData": 'type: "DenseImageData" dense_image_data_param { source: "pairs.txt" batch_size: 3 '
    "shuffle: true mirror: true crop_height: 9 crop_width: 7 rand_skip: 3 }",
    "Data": f'type: "Data" {AUGMENT} data_param {{ source: "lmdb" batch_size: 3 backend: LMDB }}',
    "HDF5Data": 'type: "HDF5Data" hdf5_data_param { source: "h5.txt" batch_size: 3 shuffle: true }',
    "VOC": 'type: "Python" python_param { module: "voc_layers" layer: "VOCDataLayer" '
    f"param_str: \"{VOC}'batch': 3, 'short_side': 16, 'crop': 13}}\" }}",
    "VOC random": 'type: "Python" python_param { module: "voc_layers" layer: "VOCDataLayer" '
    f"param_str: \"{VOC}'order': 'random', 'short_side': 16}}\" }}",
}


def net_of(layer: str) -> NetParameter:
    return parse_net(f'layer {{ name: "data" top: "data" top: "label" {layer} }}')


def batches(net: CaffeNet, count: int) -> list[dict[str, np.ndarray]]:
    return [{name: top.numpy().copy() for name, top in net().items()} for _ in range(count)]


def same(one: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def fresh(kind: str, request: pytest.FixtureRequest) -> Callable[[], CaffeNet]:
    """Makes the net of one kind of layer, from the same seed each time."""
    request.getfixturevalue("database" if kind == "Data" else "folder")

    def make() -> CaffeNet:
        set_random_seed(3)
        c_random.process_random.restore(c_random.CRandom().state())
        return CaffeNet(net_of(LAYERS[kind]), TRAIN)

    return make


@pytest.mark.parametrize("kind", LAYERS)
def test_reading_ahead_changes_nothing(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    make = fresh(kind, request)
    seen = []
    for ahead in (0, 1, 6):
        monkeypatch.setattr(data_layers.DataLayer, "ahead", ahead)
        net = make()
        source = net.named_layers()["data"].source
        monkeypatch.setattr(source, "load", _at_its_leisure(source.load))
        before = caffe_rng().state()
        seen.append(batches(net, 12))
        assert caffe_rng().state() == before, "a pass drew from the process's generator"
    assert same(seen[0], seen[1])
    assert same(seen[0], seen[2])
    assert not same(seen[0][:4], seen[0][4:8])


def _at_its_leisure(load: Callable) -> Callable:
    pauses = iter(np.random.RandomState(1).uniform(0, 0.004, 100))

    def slow(drawn: object) -> tuple[np.ndarray, ...]:
        time.sleep(next(pauses))
        return load(drawn)

    return slow


@pytest.mark.parametrize("kind", LAYERS)
def test_a_restored_layer_goes_on_exactly(kind: str, request: pytest.FixtureRequest):
    make = fresh(kind, request)
    whole = batches(make(), 14)
    for stop in (0, 1, 6):
        net = make()
        batches(net, stop)
        state = json.dumps(net.named_layers()["data"].state())
        batches(net, 2)  # what was read after the snapshot does not show
        resumed = make()
        batches(resumed, 3)
        resumed.named_layers()["data"].restore(json.loads(state))
        assert same(batches(resumed, 14 - stop), whole[stop:]), f"after {stop} batches"


ON_BOTH_ENGINES = [
    (engine, kind) for kind in LAYERS for engine in ENGINES if kind[:3] != "VOC" or engine == "port"
]


@pytest.mark.parametrize(("engine", "kind"), ON_BOTH_ENGINES)
def test_pycaffe_net_sees_the_same(engine: str, kind: str, request: pytest.FixtureRequest):
    wanted = batches(fresh(kind, request)(), 5)
    set_random_seed(3)
    c_random.process_random.restore(c_random.CRandom().state())
    caffe = importlib.import_module(f"{engine}.pycaffe")
    net = caffe.Net.from_message(net_of(LAYERS[kind]), TRAIN, allow_modules=())
    for tops in wanted:
        net.reshape()  # draws nothing
        net.forward()
        assert {name: blob.shape for name, blob in net.blobs.items()} == {n: t.shape for n, t in tops.items()}
        assert all(np.array_equal(net.blobs[name].data, top) for name, top in tops.items())
        net.backward()


@pytest.mark.parametrize("kind", ["Data", "HDF5Data", "VOC"])
def test_ranks_share_what_one_process_sees(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    """Item i goes to rank i mod count."""
    make = fresh(kind, request)
    plain = LAYERS[kind].replace("mirror: true crop_size: 11", "").replace("shuffle: true", "")
    monkeypatch.setitem(LAYERS, kind, plain)
    together = np.concatenate([tops["data"] for tops in batches(make(), 4)])
    monkeypatch.setattr(data_layers, "solver_count", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(data_layers, "solver_rank", lambda rank=rank: rank)
        shares.append(np.concatenate([tops["data"] for tops in batches(make(), 2)]))
    for rank in range(2):
        assert np.array_equal(shares[rank], together[rank::2])


def test_testing_is_not_shared(database: Path, monkeypatch: pytest.MonkeyPatch):
    one = batches(CaffeNet(net_of(LAYERS["Data"].replace("mirror: true", "")), TEST), 2)
    monkeypatch.setattr(data_layers, "solver_count", lambda: 2)
    monkeypatch.setattr(data_layers, "solver_rank", lambda: 1)
    assert same(one, batches(CaffeNet(net_of(LAYERS["Data"].replace("mirror: true", "")), TEST), 2))


# ---- Draws at set-up, in Caffe's order


@pytest.mark.parametrize(
    ("kind", "phase", "settings", "words"),
    [
        ("image", TRAIN, "", 1),
        ("image", TRAIN, "shuffle", 2),
        ("image", TRAIN, "rand_skip", 2),
        ("image", TRAIN, "mirror", 3),
        ("image", TRAIN, "crop", 3),
        ("image", TEST, "crop", 1),
        ("image", TEST, "mirror crop shuffle", 4),
        ("image", TRAIN, "mirror crop shuffle rand_skip", 5),
        ("pair", TRAIN, "crop", 3),
        ("pair", TEST, "crop shuffle", 2),
        ("memory", TRAIN, "crop", 1),
        ("memory", TEST, "", 0),
    ],
)
def test_words_taken_from_the_process(
    kind: str, phase: int, settings: str, words: int, folder: Path, caffe: ModuleType
):
    transform = " ".join(f"{name}: {value}" for name, value in _TRANSFORM.items() if name[:4] in settings)
    reading = " ".join(f"{name}: {value}" for name, value in _READING.items() if name in settings)
    layer = {
        "image": f'type: "ImageData" image_data_param {{ source: "list.txt" {reading} }}',
        "pair": f'type: "ImageSegData" image_data_param {{ source: "pairs.txt" {reading} }}',
        "memory": 'type: "MemoryData" memory_data_param { batch_size: 1 channels: 1 height: 9 width: 9 }',
    }[kind]
    set_random_seed(11)
    caffe.Net.from_message(net_of(f"{layer} transform_param {{ {transform} }}"), phase)
    alone = CaffeRNG(11)
    alone.words(words)
    assert caffe_rng().words(1) == alone.words(1)


_TRANSFORM = {"mirror": "true", "crop_size": "8"}
_READING = {"shuffle": "true", "rand_skip": "4"}


def test_order_of_seeds(folder: Path):
    """Transformer (seeded anew below), shuffle, skip, transformer, thread."""
    set_random_seed(29)
    (tops,) = batches(CaffeNet(net_of(LAYERS["ImageData"]), TRAIN), 1)
    words = CaffeRNG(29).words(5)
    order = list(range(10))
    CaffeRNG(int(words[1])).shuffle(order)
    chosen = order[words[2] % 4 :][:3]
    assert tops["label"].tolist() == [i % 4 for i in chosen]
    drawn = CaffeRNG(int(words[3])).words(9).reshape(3, 3)
    for image, index, (mirror, top, left) in zip(tops["data"], chosen, drawn.tolist(), strict=True):
        pixels = cv2.imread(f"images/{index}.png").astype(np.float32) - np.float32([104, 117, 123])
        top, left = top % (pixels.shape[0] - 10), left % (pixels.shape[1] - 10)
        pixels = pixels[top : top + 11, left : left + 11]
        assert np.array_equal(image, (pixels[:, ::-1] if mirror % 2 else pixels).transpose(2, 0, 1))


# ---- The transformer against Caffe's rule, pixel by pixel


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    crop=st.integers(0, 4),
    mirror=st.booleans(),
    phase=st.sampled_from([TRAIN, TEST]),
    mean=st.sampled_from(["", "one", "each", "file"]),
    scale=st.floats(-3, 3, width=32),
)
def test_transformer_is_caffes_rule(seed, channels, size, crop, mirror, phase, mean, scale, tmp_path_factory):
    pixels = np.random.RandomState(seed % 1000)
    image = pixels.randint(0, 256, (channels, *size), np.uint8)
    mean_image = pixels.uniform(0, 255, image.shape).astype(np.float32)
    values = {"one": [104.25], "each": [104.25, 116.5, 122.75][:channels]}.get(mean, [])
    param = TransformationParameter(crop_size=crop, mirror=mirror, scale=scale, mean_value=values)
    if mean == "file":
        param.mean_file = str(tmp_path_factory.getbasetemp() / "mean.binaryproto")
        write_binaryproto(param.mean_file, mean_image[None])
    transformer = Transformer(param, phase)
    transformer.seed(CaffeRNG(seed))
    (words,) = transformer.draw(1)
    got = transformer(image, words)

    stream = iter(CaffeRNG(int(CaffeRNG(seed).words(1)[0])).words(3).tolist())
    mirrored = mirror and next(stream) % 2
    height, width = (crop, crop) if crop else size
    spare = size[0] - height, size[1] - width
    random_crop = crop and phase == TRAIN
    top, left = [next(stream) % (s + 1) if random_crop else s // 2 for s in spare]
    wanted = np.empty((channels, height, width), np.float32)
    for c, h, w in np.ndindex(wanted.shape):
        value = np.float32(image[c, top + h, left + w])
        if mean == "file":
            value = value - mean_image[c, top + h, left + w]
        elif values:
            value = value - np.float32(values[c % len(values)])
        wanted[c, h, width - 1 - w if mirrored else w] = value * np.float32(scale)
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    size=st.tuples(st.integers(3, 12), st.integers(3, 12)),
    crop=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    phase=st.sampled_from([TRAIN, TEST]),
    factors=st.sampled_from([[], [1.0], [0.5, 1.0, 1.3]]),
)
def test_pairs_are_padded_cropped_and_mirrored_alike(seed, size, crop, phase, factors):
    draw = np.random.RandomState(seed)
    labels = draw.randint(0, 200, size).astype(np.uint8)
    image = np.repeat(labels[:, :, None], 3, 2)
    param = TransformationParameter(mirror=True, mean_value=[0], scale_factors=factors)
    param.crop_height, param.crop_width = crop
    transformer = PairTransformer(param, phase, ignore_label=255)
    transformer.seed(CaffeRNG(seed))
    (words,) = transformer.draw(1)
    values, told = transformer.pair(image, labels, words)
    assert values.shape == (3, *crop)
    assert told.shape == (1, *crop)
    inside = told != 255
    assert inside.sum() == min(size[0], crop[0]) * min(size[1], crop[1])
    assert np.array_equal(values[:1][inside], told[inside])  # the image moved with its labels
    assert not values[:1][~inside].any()  # padded with the mean, which is then subtracted


def test_scale_factors_have_no_effect_as_in_the_fork():
    image, labels = np.full((10, 20, 3), 7, np.uint8), np.full((10, 20), 3, np.uint8)
    param = TransformationParameter(mirror=True, mean_value=[7], scale_factors=[0.55])
    transformer = PairTransformer(param, TRAIN, 255)
    transformer.seed(CaffeRNG(1))
    values, told = transformer.pair(image, labels, transformer.draw(1)[0])
    assert (values.shape, told.shape) == ((3, 10, 20), (1, 10, 20))
    assert np.array_equal(np.unique(told), [3])


def test_fork_pads_above_below_and_right_with_the_rounded_mean():
    param = TransformationParameter(crop_size=4, pad=2, mean_value=[9.5, 10.5, 11.4], std_value=[2.9])
    transformer = Transformer(param, TEST)
    got = transformer(np.full((3, 4, 4), 20, np.uint8), [])
    wanted = np.empty((3, 4, 4), np.float32)
    for c, (mean, border) in enumerate([(9.5, 10), (10.5, 10), (11.4, 11)]):
        padded = np.full((8, 6), border, np.float32)
        padded[2:6, :4] = 20
        wanted[c] = (padded[2:6, 1:5] - np.float32(mean)) / 2
    assert np.array_equal(got, wanted)


# ---- Layer by layer


def test_images_are_resized_and_read_as_asked(folder: Path):
    layer = (
        'type: "ImageData" image_data_param { source: "list.txt" root_folder: "./" '
        "new_height: 9 new_width: 7 is_color: false batch_size: 2 }"
    )
    (tops,) = batches(CaffeNet(net_of(layer), TRAIN), 1)
    grey = [cv2.resize(cv2.imread(f"images/{i}.png", cv2.IMREAD_GRAYSCALE), (7, 9)) for i in range(2)]
    assert np.array_equal(tops["data"], np.float32(grey)[:, None])


def test_images_may_differ_in_size_from_batch_to_batch(folder: Path):
    net = CaffeNet(net_of('type: "ImageData" image_data_param { source: "list.txt" }'), TRAIN)
    assert [tops["data"].shape[2:] for tops in batches(net, 4)] == [(20, 24), (21, 23), (22, 22), (20, 21)]


def test_database_items_whatever_their_kind(database: Path):
    draw = np.random.RandomState(6)
    pixels = [draw.randint(0, 256, (3, 12, 14), np.uint8) for _ in range(10)]
    layer = 'type: "Data" data_param { source: "lmdb" batch_size: 4 backend: LMDB }'
    net = CaffeNet(net_of(layer), TRAIN)
    seen = np.concatenate([tops["data"] for tops in batches(net, 3)])
    assert np.array_equal(seen, np.float32([*pixels, *pixels[:2]]))
    assert net.named_layers()["data"].items()[0] == "lmdb: item 00000008"
    alone = parse_net(f'layer {{ name: "data" top: "data" {layer} }}')
    assert set(CaffeNet(alone, TRAIN)()) == {"data"}


def test_c_library_numbers_and_shuffle():
    random = c_random.CRandom()
    assert [random.rand() for _ in range(4)] == [1804289383, 846930886, 1681692777, 1714636915]
    random, items = c_random.CRandom(), list(range(7))
    random.shuffle(items)  # what g++'s std::random_shuffle prints in a fresh process
    assert items == [4, 3, 1, 6, 0, 5, 2]


def test_hdf5_rows_are_shuffled_as_in_c(folder: Path):
    c_random.process_random.restore(c_random.CRandom().state())
    net = CaffeNet(net_of(LAYERS["HDF5Data"].replace("batch_size: 3", "batch_size: 14")), TRAIN)
    (tops,) = batches(net, 1)
    random = c_random.CRandom()
    files, seen = [0, 1], []
    random.shuffle(files)
    rows = list(range(7))
    random.shuffle(rows)
    seen += [files[0] * 10 + row for row in rows]
    rows = list(range(7))
    random.shuffle(rows)
    random.shuffle(rows)
    seen += [files[1] * 10 + row for row in rows]
    assert tops["label"].tolist() == seen
    assert np.array_equal(tops["data"][:, 0] // 100, tops["label"] // 10)


def test_memory_data_gives_what_it_was_given(folder: Path, caffe: ModuleType):
    layer = 'type: "MemoryData" memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 }'
    net = caffe.Net.from_message(net_of(layer), TEST)
    data, labels = (
        np.random.RandomState(0).rand(4, 1, 2, 3).astype(np.float32),
        np.arange(4, dtype=np.float32),
    )
    assert net.blobs["label"].shape == (2,)
    net.set_input_arrays(data, labels)
    for first in (0, 2, 0):
        net.forward()
        assert np.array_equal(net.blobs["data"].data, data[first : first + 2])
        assert net.blobs["label"].shape == (2, 1, 1, 1)
        assert net.blobs["label"].data.ravel().tolist() == [first, first + 1]


def test_tops_follow_the_net(folder: Path):
    net = CaffeNet(net_of(LAYERS["ImageData"]), TRAIN).double()
    assert {top.dtype for top in net().values()} == {torch.float64}
    assert net.named_layers()["data"].prefetcher.waited >= 0


# ---- VOC


def test_pycaffe_twin_draws_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(data_layers.__file__).parents[1] / "caffe_layers"))
    for kind in ("VOC", "VOC random"):
        script = CaffeNet(net_of(LAYERS[kind]), TRAIN, allow_modules=["voc_layers"])
        assert type(script.named_layers()["data"]).__name__ == "ScriptLayer"
        seen = batches(script, 5)
        state = json.loads(json.dumps(script.named_layers()["data"].script.state()))
        assert same(seen, batches(CaffeNet(net_of(LAYERS[kind]), TRAIN), 5))
        after = batches(script, 6)
        script.named_layers()["data"].script.restore(state)
        assert same(after, batches(script, 6))
    _forget_scripts()


def test_pycaffe_twin_shares_with_other_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(data_layers.__file__).parents[1] / "caffe_layers"))

    def make() -> CaffeNet:
        return CaffeNet(net_of(LAYERS["VOC random"]), TRAIN, allow_modules=["voc_layers"])

    together = batches(make(), 6)
    monkeypatch.setattr(port.pycaffe, "solver_count", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(port.pycaffe, "solver_rank", lambda rank=rank: rank)
        assert same(batches(make(), 3), together[rank::2])
    _forget_scripts()


def _forget_scripts() -> None:
    for name in ("voc_layers", "voc_data"):
        sys.modules.pop(name)


def test_voc_images_are_the_authors_recipe(folder: Path):
    given_settings = {**DEFAULTS, "list": "voc.txt", "images": "images", "suffix": ".png"}
    source = VocImages({**given_settings, "short_side": 16, "mirror": False, "order": "list"})
    for i in range(3):
        data, label = source.load(source.draw())
        image = cv2.imread(f"images/{i}.png").astype(np.float32)
        scale = 16 / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        wanted = (image - np.array((104.007, 116.669, 122.679))).astype(np.float32).transpose(2, 0, 1)
        assert np.array_equal(data[0], wanted)
        assert np.flatnonzero(label).tolist() == [i % 4, 10 + i % 5]


def test_voc_shuffles_every_round(folder: Path):
    source = VocImages({**DEFAULTS, "list": "voc.txt", "images": "images", "suffix": ".png", "seed": 7})
    rounds = [[entry[0] for _ in range(10) for entry, _ in source.draw()] for _ in range(3)]
    assert all(sorted(names) == [str(i) for i in range(10)] for names in rounds)
    assert len({tuple(names) for names in rounds}) == 3


# ---- SeeNet's training nets


def test_pycaffe_background_mask_is_the_built_in(monkeypatch: pytest.MonkeyPatch):
    """C-ReLU's module is the authors'; S_C's is ours, and genuine Caffe needs it."""
    monkeypatch.syspath_prepend(str(Path(data_layers.__file__).parents[1] / "caffe_layers"))
    net = parse_net(
        'layer { name: "in" type: "Input" top: "x" top: "scores" top: "labels" input_param { '
        "shape { dim: [3, 4, 6, 5] } shape { dim: [3, 20, 6, 5] } shape { dim: [3, 20] } } }"
        'layer { name: "mask" type: "Python" bottom: "x" bottom: "scores" bottom: "labels" top: "kept" '
        'python_param { module: "scan_background_layer" layer: "BackgroundMaskLayer" '
        "param_str: \"{'thresh': 0.375 }\" } }"
    )
    draw = torch.Generator().manual_seed(2)
    x, scores = (torch.randn(3, channels, 6, 5, generator=draw) for channels in (4, 20))
    labels = (torch.rand(3, 20, generator=draw) < 0.2).float()
    results = []
    for allowed in ([], ["scan_background_layer"]):
        features = x.clone().requires_grad_()
        kept = CaffeNet(net, TRAIN, allow_modules=allowed)(features, scores, labels)["kept"]
        (kept * x).sum().backward()
        results.append((kept.detach(), features.grad))
    sys.modules.pop("scan_background_layer")
    assert 0.1 < (results[0][0] == 0).float().mean() < 0.9
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_seenet_trains_as_recorded():
    """Layers, blobs and settings are the recorded net's, the data's source and S_A's dropout apart."""
    cases, _ = recorded("seenet_train")
    for case, file in (("narrow", "narrow_train"), ("full", "train")):
        golden = parse_net(next(c["net"] for c in cases if c["name"] == case))
        ours = layers_of(NETS / "seenet" / f"{file}.prototxt", ["iter_size"])
        for layer in golden.layer:
            if layer.type == "Input":
                assert layer.name in {name for mine in ours.values() for name in mine.top}
                continue
            mine = ours[layer.name]
            for field in ("type", "bottom", "top", "convolution_param", "pooling_param", "loss_param"):
                assert getattr(mine, field) == getattr(layer, field), f"{layer.name}: {field}"
            assert mine.python_param == layer.python_param
            assert list(mine.propagate_down) == list(layer.propagate_down)
            assert [(p.lr_mult, p.decay_mult) for p in mine.param] == [
                (p.lr_mult, p.decay_mult) for p in layer.param
            ]
        extra = set(ours) - {layer.name for layer in golden.layer}
        assert extra == {"drop2_b1"}


def layers_of(path: Path, stages: list[str]) -> dict:
    state = NetState(phase=TRAIN, stage=stages)
    return {layer.name: layer for layer in read_net(path).layer if layer_included(layer, state)}


@pytest.mark.parametrize(
    ("stages", "losses", "mint"),
    [
        ([], 3, 0.05),
        (["iter_size"], 3, 0.05),
        (["acol"], 2, 0.0),
        (["acol", "iter_size"], 2, 0.0),
        (["no_negation"], 3, 0.0),
    ],
)
def test_seenet_studies_run(stages: list[str], losses: int, mint: float, folder: Path):
    lists, images = Path("VOCdevkit/VOC2012/ImageSets/Segmentation"), Path("VOCdevkit/VOC2012/JPEGImages")
    lists.mkdir(parents=True)
    images.mkdir(parents=True)
    (lists / "train_cls.txt").write_text("".join(f"{i} {i} {19 - i}\n" for i in range(5)))
    for i in range(5):
        pixels = np.random.RandomState(i).randint(0, 256, (70, 66 + i, 3), np.uint8)
        cv2.imwrite(str(images / f"{i}.jpg"), pixels)
    set_random_seed(1)
    net = CaffeNet(NETS / "seenet" / "narrow_train.prototxt", TRAIN, stages=stages)
    outputs = net(blobs=["data", "label"])
    assert len([name for name in outputs if name.startswith("loss_")]) == losses
    assert outputs["data"].shape[0] == outputs["label"].shape[0] == (1 if "iter_size" in stages else 16)
    assert net.named_layers()["mask_b2"].mask.mint == mint
    net.loss(outputs).backward()
    assert all(torch.isfinite(weight.grad).all() for weight in net.parameters())


@pytest.mark.parametrize(
    "file", sorted((NETS / "seenet").glob("solver*.prototxt")), ids=lambda path: path.stem
)
def test_solvers_have_the_published_schedule(file: Path):
    solver = read_solver(file)
    assert (solver.base_lr, solver.momentum, solver.weight_decay) == pytest.approx((0.001, 0.9, 0.0002))
    assert (solver.lr_policy, list(solver.stepvalue), solver.max_iter) == ("multistep", [15000], 25000)
    stages = list(solver.train_state.stage)
    assert solver.iter_size == (16 if "iter_size" in stages else 1)
    assert (NETS.parent / solver.net).is_file()
    assert set(stages) <= {"iter_size", "acol", "cam", "no_negation"}


# ---- Bad input


IMAGES = 'type: "ImageData" image_data_param'
PAIRS = 'type: "ImageSegData" image_data_param'


@pytest.mark.parametrize(
    ("layer", "files", "message"),
    [
        (f'{IMAGES} {{ source: "none.txt" }}', {}, r"none\.txt: cannot be read"),
        (f'{IMAGES} {{ source: "x" }}', {"x": ""}, "x: is empty"),
        (f'{IMAGES} {{ source: "x" }}', {"x": "images/0.png 1\n\n"}, "x:2: names no image"),
        (f'{IMAGES} {{ source: "x" }}', {"x": "images/0.png 3000000000\n"}, "x:1: .* out of range"),
        (f'{IMAGES} {{ source: "x" }}', {"x": "images/no.png 1\n"}, r"x:1: images/no\.png cannot be read"),
        (f'{IMAGES} {{ source: "x" }}', {"x": "list.txt 1\n"}, r"x:1: list\.txt does not decode"),
        (
            f'{IMAGES} {{ source: "x" batch_size: 2 }}',
            {"x": "images/0.png 1\nimages/1.png 0\n"},
            "x:2: .*21×23",
        ),
        (f'{IMAGES} {{ source: "list.txt" batch_size: 0 }}', {}, "batch_size"),
        (f'{IMAGES} {{ source: "list.txt" new_width: 3 }}', {}, "new_height and new_width"),
        (
            f'{IMAGES} {{ source: "list.txt" rand_skip: 4000000 }}',
            {},
            "rand_skip drew",
        ),
        (
            f'{IMAGES} {{ source: "list.txt" }} transform_param {{ crop_size: 21 }}',
            {},
            r"list\.txt:1: images/0\.png: 20×24 pixels .* smaller than the crop, 21×21",
        ),
        (
            f'{IMAGES} {{ source: "list.txt" }} transform_param {{ mean_value: [1, 2] }}',
            {},
            r"list\.txt:1: images/0\.png: 2 mean_value for 3 channels",
        ),
        (
            f'{IMAGES} {{ source: "list.txt" }} transform_param {{ mean_file: "m" mean_value: 1 }}',
            {},
            "keep one",
        ),
        (f'{PAIRS} {{ source: "x" }}', {"x": "images/0.png\n"}, "x:1: .* is not IMAGE LABEL_IMAGE"),
        (f'{PAIRS} {{ source: "x" }}', {"x": "images/0.png labels/1.png\n"}, "x:1: .*label image of"),
        (
            f'{PAIRS} {{ source: "pairs.txt" }} transform_param {{ crop_size: 40 }}',
            {},
            "smaller than the crop.*mean_value",
        ),
        (
            f'{PAIRS} {{ source: "pairs.txt" }} transform_param {{ crop_height: 4 crop_width: 4 }}',
            {},
            "Caffe seeds a generator only for",
        ),
        (
            'type: "Data" data_param { source: "images" batch_size: 1 }',
            {},
            "images: .*backend is LEVELDB.*: LevelDB is not supported: make an LMDB .*backend: LMDB",
        ),
        (
            'type: "HDF5Data" hdf5_data_param { source: "x" batch_size: 1 }',
            {"x": "list.txt"},
            "x: list.txt: .*HDF5",
        ),
        (
            'type: "HDF5Data" hdf5_data_param { source: "x" batch_size: 1 }',
            {"x": "odd.h5"},
            'no dataset "label"',
        ),
        ('type: "MemoryData" memory_data_param { batch_size: 1 }', {}, "channels, height and width"),
        (
            'type: "MemoryData" memory_data_param { batch_size: 1 channels: 1 height: 1 width: 1 }',
            {},
            "call reset",
        ),
    ],
)
def test_one_line_says_what_is_wrong(
    layer: str, files: dict[str, str], message: str, folder: Path, caffe: ModuleType
):
    for name, text in files.items():
        Path(name).write_text(text)
    with h5py.File("odd.h5", "w") as file:
        file["data"] = np.zeros((2, 2))
    with pytest.raises(InputError, match=message) as caught:
        net = caffe.Net.from_message(net_of(layer), TRAIN)
        net.forward()
    assert "\n" not in str(caught.value)
    assert 'layer "data"' in str(caught.value)


@pytest.mark.parametrize(
    ("voc", "setting", "message"),
    [
        ("0 3\n1 20\n", "", "voc.txt:2: 1: class 20 is not from 0 to 19"),
        ("0 3\n1\n", "", "voc.txt:2: 1: names no class"),
        ("none 3\n", "", "voc.txt:1: none: .*cannot be read"),
        ("0 1\n", "'crop': 23", "voc.txt:1: 0: 20×24 pixels, smaller than the crop, 23"),
        ("0 1\n", "'batch': 2", "needs size or crop"),
        ("0 1\n", "'cut': 2", "'cut' is no setting"),
    ],
)
def test_voc_lists_that_are_wrong(voc: str, setting: str, message: str, folder: Path):
    Path("voc.txt").write_text(voc)
    python = f'module: "voc_layers" layer: "VOCDataLayer" param_str: "{VOC}{setting}}}"'
    layer = f'type: "Python" python_param {{ {python} }}'
    with pytest.raises(InputError, match=message):
        CaffeNet(net_of(layer), TRAIN)()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Datum(channels=3, height=5, width=5, data=bytes(75)).SerializeToString(), "item 00000001: .*3×5×5"),
        (Datum(channels=3, height=5, width=5, data=bytes(7)).SerializeToString(), "item 00000001: 7 values"),
        (Datum(data=b"text", encoded=True).SerializeToString(), "item 00000001: .*does not decode"),
        (b"\xff\xff", "item 00000001: is no Datum"),
    ],
)
def test_databases_that_are_wrong(value: bytes, message: str, database: Path):
    with lmdb.open("lmdb") as environment, environment.begin(write=True) as writing:
        writing.put(b"00000001", value)
    layer = 'type: "Data" data_param { source: "lmdb" batch_size: 3 backend: LMDB }'
    with pytest.raises(InputError, match=message):
        CaffeNet(net_of(layer), TRAIN)()


@pytest.mark.parametrize(
    ("line", "name", "label"),
    [
        ("images/0.png 2.7", "images/0.png", 2),
        ("images/0.png", "images/0.png", 0),
        ("7.png", "7.png", 7),
        ("images/0.png cat", "images/0.png", 0),
        ("images/0.png -3x", "images/0.png", -3),
        ("images/0.png 5\r", "images/0.png", 5),
        ("a b.png +4", "a b.png", 4),
        ("images/0.png ", "images/0.png", 0),
        ("images/0.png\t3", "images/0.png\t3", 0),
    ],
)
def test_lists_are_read_as_caffe_reads_them(line: str, name: str, label: int, tmp_path: Path) -> None:
    """The last space parts name and label; the label is what C's atoi makes of the text after it."""
    path = tmp_path / "list.txt"
    path.write_bytes(f"{line}\n{line}".encode())
    assert [(entry.name, entry.value) for entry in read_labelled_list(str(path))] == [(name, label)] * 2


def test_state_of_another_list_is_refused(folder: Path):
    state = CaffeNet(net_of(LAYERS["ImageData"]), TRAIN).named_layers()["data"].state()
    Path("list.txt").write_text("images/0.png 1\n" * 10)
    with pytest.raises(InputError, match="is not the list"):
        CaffeNet(net_of(LAYERS["ImageData"]), TRAIN).named_layers()["data"].restore(state)


@pytest.mark.parametrize("indices", [False, True])
def test_a_palette_is_refused_or_its_indices_taken(tmp_path: Path, indices: bool) -> None:
    """OpenCV reads the brightness of VOC's colours: 14, a motorbike, for class 4. Grey indices are as they are."""
    labels = np.array([[0, 4], [8, 255]], np.uint8)
    write_label_image(tmp_path / "palette.png", labels)
    cv2.imwrite(str(tmp_path / "grey.png"), labels)
    assert cv2.imread(str(tmp_path / "palette.png"), cv2.IMREAD_GRAYSCALE).tolist()[0] == [0, 14]
    np.testing.assert_array_equal(read_labels(str(tmp_path / "grey.png"), None, "list:1", indices), labels)
    if indices:
        np.testing.assert_array_equal(
            read_labels(str(tmp_path / "palette.png"), None, "list:1", True), labels
        )
    else:
        with pytest.raises(InputError, match=r"list:1: .*palette\.png has a palette: .*--palette-labels"):
            read_labels(str(tmp_path / "palette.png"), None, "list:1", False)


@pytest.mark.parametrize(
    ("layer", "module"),
    [
        (
            'top: "a" top: "b" top: "c" top: "d" python_param { module: "voc_layers" layer: "VOCDataLayer" }',
            "voc_layers",
        ),
        (
            'top: "a" top: "b" python_param { module: "voc_layers" layer: "VOCDataLayer" param_str: "{\'dir\': 1}" }',
            "voc_layers",
        ),
        ('top: "a" python_param { module: "crelu_layer" layer: "CReLULayer" }', "crelu_layer"),
    ],
)
def test_another_projects_layer_of_a_built_in_name(layer: str, module: str) -> None:
    """Another number of tops, other settings: the message says what was taken, and how to take the other."""
    net = parse_net(f'layer {{ name: "d" type: "Python" {layer} }}')
    with pytest.raises(
        InputError, match=rf"this is the built-in {module}\..*; --allow-module {module}, or .* your own"
    ):
        CaffeNet(net, TRAIN)
