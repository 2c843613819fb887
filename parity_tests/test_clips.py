"""C3D's VideoData, versions 1.0 and 1.1, and the files of C3D 1.0."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from port.net import CaffeNet
from port.report.summary import summarise
from prototxt import parse_net
from prototxt.caffe_pb2 import BlobProto, NetParameter
from prototxt.errors import InputError
from prototxt.layers.declare import Declared
from prototxt.plan import Step
from prototxt.proto_file import read_proto
from runtime.c_random import CRandom, process_random
from runtime.data.clips import VideoClips
from runtime.data.sources import open_source
from runtime.rng import CaffeRNG, caffe_rng, set_random_seed
from weights import read_binaryproto, read_weights

HEIGHT, WIDTH, FRAMES = 12, 16, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of frames 000001.jpg … and two videos, a long and a short one."""
    path = tmp_path_factory.mktemp("clips")
    draw = np.random.RandomState(2)
    for name, count in (("a", FRAMES), ("b", FRAMES), ("short", 2)):
        (path / name).mkdir()
        video = cv2.VideoWriter(
            str(path / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (WIDTH, HEIGHT)
        )
        for i in range(1, count + 1):
            frame = cv2.resize(draw.randint(0, 256, (4, 4, 3)).astype(np.uint8), (WIDTH, HEIGHT))
            cv2.imwrite(str(path / name / f"{i:06d}.jpg"), frame)
            video.write(frame)
        video.release()
    (path / "frames.txt").write_text(f"{path}/a 1 3\n\n{path}/b 4 5\n")
    (path / "videos.txt").write_text(f"{path}/a.avi 0 3\n{path}/b.avi 2 5\n")
    (path / "jitter.txt").write_text("a.avi 3\nshort.avi 4\nb.avi 5\n")
    (path / "several.txt").write_text("a 1 0,2\nb 4 1\n")
    return path


def opened(settings: str, phase: str = "TRAIN", tops: int = 2) -> tuple[VideoClips, Declared]:
    """The source behind a VideoData layer."""
    named = " ".join(f'top: "t{i}"' for i in range(tops))
    text = f'layer {{ name: "l" type: "VideoData" phase: {phase} {named} {settings} }}'
    (layer,) = parse_net(text).layer
    source = open_source(Step(0, layer, (), tuple(range(tops)), (), None))
    assert source is not None and isinstance(source[0], VideoClips)
    return source


def frames(folder: Path, name: str, first: int, count: int, step: int = 1) -> np.ndarray:
    """(3, length, height, width) of a folder's frames."""
    images = [cv2.imread(str(folder / name / f"{first + i * step:06d}.jpg")) for i in range(count)]
    return np.stack(images).transpose(3, 0, 1, 2).astype(np.float32)


def video_frames(folder: Path, name: str) -> np.ndarray:
    video, images = cv2.VideoCapture(str(folder / f"{name}.avi")), []
    while (read := video.read())[0]:
        images.append(read[1])
    return np.stack(images).transpose(3, 0, 1, 2).astype(np.float32)


def test_version_1_1_of_frames(folder: Path) -> None:
    source, declared = opened(
        f'video_data_param {{ source: "{folder}/frames.txt" use_image: true new_length: 3 batch_size: 3 '
        "sampling_rate: 2 } transform_param { scale: 0.5 mean_value: 1 mean_value: 2 mean_value: 3 }",
        "TEST",
    )
    assert declared.tops == [(3, 3, 3, HEIGHT, WIDTH), (3,)]
    drawn = source.draw()
    data, labels = source.load(drawn)
    mean = np.reshape([1, 2, 3], (3, 1, 1, 1))
    for item, (name, first) in zip(data, (("a", 1), ("b", 4), ("a", 1)), strict=True):
        np.testing.assert_array_equal(item, (frames(folder, name, first, 3, 2) - mean) * np.float32(0.5))
    assert labels.tolist() == [3, 5, 3]
    assert source.items(drawn)[1] == f"{folder}/frames.txt:3: {folder}/b"


def test_version_1_1_draws(folder: Path) -> None:
    """Mirror and crop by the transformer's generator, start and rate by the loading thread's."""
    set_random_seed(11)
    source, declared = opened(
        f'video_data_param {{ source: "{folder}/jitter.txt" root_folder: "{folder}/" new_length: 2 batch_size: 4 '
        "use_temporal_jitter: true use_sampling_rate_jitter: true max_sampling_rate: 2 new_height: 10 new_width: 8 } "
        "transform_param { crop_size: 6 mirror: true }"
    )
    assert declared.tops[0] == (4, 3, 2, 6, 6)
    set_random_seed(11)
    rng = caffe_rng()
    rng.words(1)  # the transformer's first seed
    transform, thread = CaffeRNG(int(rng.words(1)[0])), CaffeRNG(int(rng.words(1)[0]))
    wanted: list[np.ndarray] = []
    order = ["a", "short", "b"] * 4
    while len(wanted) < 4:
        name = order.pop(0)
        rate = int(thread.words(1)[0]) % 2 + 1
        spare = (2 if name == "short" else FRAMES) - 2 * rate
        if spare < 0:
            continue  # too short: passed over, after its rate is drawn
        start = int(thread.words(1)[0]) % (spare + 1)
        mirror, top, left = (int(word) for word in transform.words(3))
        clip = video_frames(folder, name)[:, start : start + 2 * rate : rate]
        resized = [
            cv2.resize(frame.transpose(1, 2, 0), (8, 10)) for frame in clip.astype(np.uint8).swapaxes(0, 1)
        ]
        clip = np.stack(resized).transpose(3, 0, 1, 2)[:, :, top % 5 : top % 5 + 6, left % 3 : left % 3 + 6]
        wanted.append(clip[..., ::-1] if mirror % 2 else clip)
    np.testing.assert_array_equal(source.load(source.draw())[0], np.stack(wanted))


def test_several_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    source, declared = opened(
        'video_data_param { source: "several.txt" use_image: true new_length: 2 batch_size: 2 '
        "use_multiple_label: true num_of_labels: 3 }",
        "TEST",
    )
    assert declared.tops[1] == (2, 3)
    np.testing.assert_array_equal(source.load(source.draw())[1], [[1, 0, 1], [0, 1, 0]])


def test_version_1_0(folder: Path) -> None:
    """Its crop is drawn from one place less, and before its mirror; C's rand() shuffles the list."""
    process_random.restore(CRandom().state())
    set_random_seed(4)
    source, declared = opened(
        f'image_data_param {{ source: "{folder}/videos.txt" new_length: 3 batch_size: 3 crop_size: 8 mirror: true '
        "shuffle: true mean_value: 100 scale: 2 }"
    )
    assert declared.tops == [(3, 3, 3, 8, 8), (3, 1, 1, 1, 1)]
    set_random_seed(4)
    rng = caffe_rng()
    rng.words(1)  # for a shuffle that does not use it
    own, rand = CaffeRNG(int(rng.words(1)[0])), CRandom()
    order: list[tuple[str, int, int]] = [("a", 0, 3), ("b", 2, 5)]
    rand.shuffle(order)
    listed = list(order)
    rand.shuffle(order)
    data, labels = source.load(source.draw())
    for item, (name, first, label), found in zip(data, (*listed, order[0]), labels.ravel(), strict=True):
        top, left, mirror = (int(word) for word in own.words(3))
        top, left = top % (HEIGHT - 8), left % (WIDTH - 8)
        clip = video_frames(folder, name)[:, first : first + 3, top : top + 8, left : left + 8]
        clip = clip[..., ::-1] if mirror % 2 else clip
        np.testing.assert_array_equal(item, (clip - 100) * 2)
        assert found == label


def test_going_on(folder: Path) -> None:
    settings = (
        f'video_data_param {{ source: "{folder}/frames.txt" use_image: true new_length: 2 batch_size: 3 '
        "shuffle: true } transform_param { crop_size: 6 mirror: true }"
    )
    source, _ = opened(settings)
    source.draw()
    state = source.state()
    wanted = source.load(source.draw())
    other, _ = opened(settings)
    other.restore(state)
    for one, two in zip(other.load(other.draw()), wanted, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            'video_data_param { source: "videos.txt" batch_size: 1 }',
            "new_length, batch_size and sampling_rate",
        ),
        (
            'video_data_param { source: "videos.txt" batch_size: 1 new_length: 2 new_width: 3 }',
            "new_height and new",
        ),
        ('video_data_param { source: "none.txt" batch_size: 1 new_length: 2 }', "none.txt: cannot be read"),
        (
            'video_data_param { source: "videos.txt" batch_size: 1 new_length: 30 }',
            "has 9 frames; the clip ends at 30",
        ),
        (
            'video_data_param { source: "jitter.txt" batch_size: 1 new_length: 2 }',
            "jitter.txt:1: 'a.avi 3' is not NAME",
        ),
        (
            'video_data_param { source: "frames.txt" batch_size: 1 new_length: 2 use_image: true '
            "use_temporal_jitter: true }",
            "stops in the fork at set-up",
        ),
        (
            'video_data_param { source: "videos.txt" batch_size: 1 new_length: 2 is_color: false }',
            "is_color is a fork's",
        ),
        (
            'video_data_param { source: "videos.txt" batch_size: 1 new_length: 2 crop_size: 3 }',
            "crop_size is a fork's",
        ),
        (
            'image_data_param { source: "jitter.txt" batch_size: 1 new_length: 2 use_temporal_jitter: true }',
            "draws by the clock",
        ),
        (
            'image_data_param { source: "videos.txt" batch_size: 1 new_length: 2 mirror: true }',
            "mirror needs crop_size",
        ),
        (
            'image_data_param { source: "videos.txt" batch_size: 1 new_length: 2 crop_size: 12 }',
            "must be larger than",
        ),
        (
            'video_data_param { source: "several.txt" use_image: true new_length: 2 batch_size: 1 '
            "use_multiple_label: true num_of_labels: 2 }",
            "several.txt:1: labels must be from 0 to 1",
        ),
    ],
)
def test_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, settings: str, told: str) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=told):
        opened(settings)


# ---- A net, summarised unread


@pytest.mark.parametrize(
    ("settings", "shapes"),
    [
        (
            'video_data_param { source: "no.txt" new_length: 16 batch_size: 4 } transform_param { crop_size: 112 }',
            ((4, 3, 16, 112, 112), (4,)),
        ),
        (
            'image_data_param { source: "no.txt" new_length: 16 batch_size: 4 new_height: 128 new_width: 171 }',
            ((4, 3, 16, 128, 171), (4, 1, 1, 1, 1)),
        ),
    ],
)
def test_summary_takes_the_settings_word(settings: str, shapes: tuple) -> None:
    net = parse_net(f'layer {{ name: "d" type: "VideoData" top: "data" top: "label" {settings} }}')
    summary, remarks = summarise(net)
    assert summary.layers[0].shapes == shapes and "unread" in remarks[0]


# ---- Files of C3D 1.0, whose blobs have a length

C3D_BLOB = """message BlobProto {
  optional int32 num = 1; optional int32 channels = 2; optional int32 length = 3; optional int32 height = 4;
  optional int32 width = 5; repeated float data = 6 [packed = true]; repeated float diff = 7 [packed = true];
}"""


def c3d_blob(tmp_path: Path, array: np.ndarray, **more: list) -> bytes:
    (tmp_path / "c3d.proto").write_text(C3D_BLOB)
    num, channels, length, height, width = array.shape
    blob = read_proto(tmp_path / "c3d.proto")["BlobProto"]
    return blob(
        num=num, channels=channels, length=length, height=height, width=width, data=array.ravel(), **more
    ).SerializeToString()


def test_a_mean_volume(tmp_path: Path, folder: Path) -> None:
    mean = np.random.RandomState(1).uniform(0, 255, (1, 3, 2, HEIGHT, WIDTH)).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(c3d_blob(tmp_path, mean, diff=[1, 2]))
    np.testing.assert_array_equal(read_binaryproto(tmp_path / "mean.binaryproto"), mean)
    source, _ = opened(
        f'image_data_param {{ source: "{folder}/frames.txt" use_image: true new_length: 2 batch_size: 1 '
        f'mean_file: "{tmp_path}/mean.binaryproto" }}',
        "TEST",
    )
    np.testing.assert_array_equal(source.load(source.draw())[0][0], frames(folder, "a", 1, 2) - mean[0])


def test_a_caffemodel(tmp_path: Path) -> None:
    """Convolution3D is type 30 there, which is another layer's number in BVLC's Caffe."""
    text = """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 3 dim: 4 dim: 4 } } }
        layers { name: "conv" type: CONVOLUTION3D bottom: "x" top: "c"
            convolution_param { num_output: 3 kernel_size: 2 kernel_depth: 3 } }
        layers { name: "fc" type: INNER_PRODUCT bottom: "c" top: "y" inner_product_param { num_output: 5 } }
    """.replace('layer { name: "in" type: "Input" top: "x" input_param', 'input: "x" input_shape').replace(
        "{ shape { dim: 1 dim: 2 dim: 3 dim: 4 dim: 4 } } }", "{ dim: 1 dim: 2 dim: 3 dim: 4 dim: 4 }"
    )
    net = CaffeNet(parse_net(text))
    draw = np.random.RandomState(0)
    file = NetParameter()
    weights = {}
    for name, number, shapes in (
        ("conv", 30, [(3, 2, 3, 2, 2), (1, 1, 1, 1, 3)]),
        ("fc", 14, [(1, 1, 1, 5, 27), (1, 1, 1, 1, 5)]),
    ):
        layer = file.layers.add(name=name, type=number)
        weights[name] = [draw.uniform(size=shape).astype(np.float32) for shape in shapes]
        for array in weights[name]:
            layer.blobs.append(BlobProto.FromString(c3d_blob(tmp_path, array)))
    (tmp_path / "c3d.caffemodel").write_bytes(file.SerializeToString())
    assert [layer.name for layer in read_weights(tmp_path / "c3d.caffemodel")] == ["conv", "fc"]
    assert net.load_weights(tmp_path / "c3d.caffemodel") == []
    for name, arrays in weights.items():
        for blob, array in zip(net.named_layers()[name].blobs, arrays, strict=True):
            np.testing.assert_array_equal(blob.detach().numpy().ravel(), array.ravel())
