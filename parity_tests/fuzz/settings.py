"""Breaking a net by its fields: each edit sets one setting of one layer to what few programs expect.

Edits of the text hardly ever give a net that is still read; these always do, so they reach what is behind the reader.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from parity_tests.drawn_layers import settings_of
from parity_tests.fuzz.edits import Edit
from parity_tests.recordings import GOLDEN
from prototxt.caffe_pb2 import AnnotatedDatum, Datum, LayerParameter
from prototxt.layers.declare import LAYER_TYPES
from prototxt.read import parse_net

_WHOLE = (0, 1, -1, 2, 3, 5, 64, 1 << 10, 1 << 15, 1 << 20, (1 << 31) - 1, 1 << 31, -(1 << 31), (1 << 32) - 1)
_WHOLE += (1 << 40, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1)
_REAL = (0.0, -1.0, 0.5, 2.0, 1e-45, 1e38, -1e38, float("inf"), -float("inf"), float("nan"))
_TEXT = ("", "x", "\0", ".", "..", "/dev/zero", "a\nb\033[2J", "x" * 3000, "xavier", "bilateral", "[0]")
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}

UNRECORDED = {
    'type: "Correlation" correlation_param { pad: 3 kernel_size: 1 max_displacement: 3 stride_1: 1 stride_2: 1 }': (
        (2, 3, 6, 7),
        (2, 3, 6, 7),
    ),
    'type: "DenseCRF" dense_crf_param { max_iter: 2 bi_w: 4 bi_xy_std: 20 bi_rgb_std: 3 pos_w: 3 pos_xy_std: 3 }': (
        (1, 3, 6, 7),
        (1, 2, 1, 1),
        (1, 3, 6, 7),
    ),
    'type: "MultiStageMeanfield" multi_stage_meanfield_param { num_iterations: 3 theta_alpha: 20 theta_beta: 10 '
    "theta_gamma: 3 spatial_filter_weight: 3 bilateral_filter_weight: 5 }": (
        (1, 3, 6, 7),
        (1, 3, 6, 7),
        (1, 3, 6, 7),
    ),
    'type: "Proposal" top: "s" proposal_param { }': ((1, 18, 3, 4), (1, 36, 3, 4), (1, 3)),
    'type: "ROIAlign" roi_align_param { pooled_h: 3 pooled_w: 2 spatial_scale: 0.11 }': (
        (2, 3, 9, 11),
        (4, 5),
    ),
    'type: "ROIWarping" roi_warping_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.1 }': (
        (2, 3, 9, 11),
        (4, 5),
    ),
    'type: "MaskPooling"': ((2, 3, 9, 11), (2, 1, 9, 11)),
    'type: "MaskResize" mask_resize_param { output_height: 5 output_width: 27 }': ((2, 3, 9, 11),),
    'type: "SuperpixelPoolingTest"': ((1, 3, 6, 7), (1, 1, 6, 7)),
    'type: "SuperpixelPooling" top: "s" superpixel_pooling_param { pool_type: AVE }': (
        (1, 3, 6, 7),
        *((1, 1, 6, 7),) * 3,
    ),
    'type: "Transpose" transpose_param { dim: 3 dim: 0 dim: 2 dim: 1 }': ((2, 3, 4, 5),),
    'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 unpool_size: 12 }': ((2, 3, 6, 6),),
    'type: "LargeMarginInnerProduct" largemargin_inner_product_param { num_output: 4 type: DOUBLE base: 2 '
    'weight_filler { type: "xavier" } }': ((6, 5), (6,)),
    'type: "MarginInnerProduct" margin_inner_product_param { num_output: 4 type: DOUBLE base: 2 weight_filler { type: '
    '"xavier" } }': ((6, 5), (6,)),
    'type: "CTCGreedyDecoder"': ((5, 2, 4), (2, 3)),
    'type: "WarpCTCLoss"': ((5, 2, 4), (2, 3)),
    'type: "Downsample" downsample_param { top_height: 2 top_width: 3 }': ((2, 3, 6, 7),),
    'type: "Resample" resample_param { height: 5 width: 9 type: LINEAR }': ((2, 3, 6, 7),),
    'type: "Flip" flip_param { }': ((2, 3, 4, 5),),
    'type: "Reverse" reverse_param { }': ((2, 3, 4, 5),),
    'type: "Warp"': ((2, 3, 4, 5), (2, 2, 4, 5)),
    'type: "Padding" padding_param { }': ((2, 3, 4, 5),),
    'type: "Lstm" lstm_param { num_output: 3 weight_filler { type: "xavier" } }': ((4, 2, 3, 1), (4, 2)),
    'type: "DummyData" dummy_data_param { shape { dim: 2 dim: 3 } data_filler { type: "gaussian" } }': (),
    'type: "Parameter" parameter_param { shape { dim: 2 dim: 3 } }': (),
    'type: "MemoryData" top: "s" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }': (),
    'type: "LSTMUnit" top: "s"': ((1, 2, 12), (1, 2, 3), (1, 2)),
    'type: "InnerDistance" inner_distance_param { num_output: 3 }': ((4, 5),),
    'type: "SeLUDropout"': ((2, 3, 4, 5),),
    'type: "Python" python_param { module: "crelu_layer" layer: "CReLULayer" }': ((2, 3, 4, 5),) * 3,
}
"""A layer that no recording has → its bottoms' shapes."""


_SMALL_IMAGES = "transform_param { mirror: true crop_size: 7 mean_value: 100 scale: 0.5 }"
DATA = (
    f'type: "ImageData" top: "y" {_SMALL_IMAGES} image_data_param {{ source: "list.txt" batch_size: 2 new_height: 9 '
    "new_width: 9 shuffle: true }",
    f'type: "Data" top: "y" {_SMALL_IMAGES} data_param {{ source: "db" batch_size: 2 backend: LMDB }}',
    'type: "AnnotatedData" top: "y" transform_param { mirror: true resize_param { height: 9 width: 9 } '
    "emit_constraint { emit_type: CENTER } distort_param { brightness_prob: 0.5 brightness_delta: 32 } "
    "expand_param { prob: 0.5 max_expand_ratio: 2 } noise_param { prob: 0.5 saltpepper_param { fraction: 0.1 "
    "value: 255 } } } data_param { "
    'source: "annotated" batch_size: 2 backend: LMDB } annotated_data_param { batch_sampler { max_sample: 1 '
    "max_trials: 5 sampler { min_scale: 0.3 max_scale: 1 } sample_constraint { min_jaccard_overlap: 0.1 } } }",
    'type: "HDF5Data" hdf5_data_param { source: "h5.txt" batch_size: 2 shuffle: true }',
    'type: "WindowData" top: "y" transform_param { crop_size: 7 } window_data_param { source: "windows.txt" '
    "batch_size: 4 fg_threshold: 0.5 context_pad: 2 }",
    'type: "ImageSegData" top: "y" transform_param { crop_size: 7 } image_data_param { source: "pairs.txt" '
    "batch_size: 1 label_type: PIXEL }",
    'type: "DenseImageData" top: "y" dense_image_data_param { source: "pairs.txt" batch_size: 1 }',
    'type: "MemoryData" top: "y" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 5 }',
    'type: "Python" top: "y" python_param { module: "voc_layers" layer: "VOCDataLayer" param_str: "{\'list\': '
    "'voc.txt', 'images': '.', 'size': 8}\" }",
)
"""Layers that read the files of `write_files`."""


def data_nets() -> list[bytes]:
    return [f'layer {{ name: "l" top: "data" {layer} }}\n'.encode() for layer in DATA]


def write_files(folder: Path) -> None:
    """A photograph, a label image, lists, databases, an HDF5 file and windows of it."""
    draw = np.random.RandomState(0)
    cv2.imwrite(os.fspath(folder / "a.jpg"), draw.randint(0, 256, (12, 15, 3), np.uint8))
    cv2.imwrite(os.fspath(folder / "a.png"), draw.randint(0, 5, (12, 15), np.uint8))
    lists = {
        "list.txt": "a.jpg 1\na.jpg 0\n",
        "pairs.txt": "a.jpg a.png\n",
        "h5.txt": "d.h5\n",
        "voc.txt": "a 3\n",
        "windows.txt": "# 0\na.jpg\n3\n12\n15\n2\n1 0.9 1 1 9 9\n0 0.1 3 3 8 11\n",
    }
    for name, text in lists.items():
        (folder / name).write_text(text)
    with h5py.File(folder / "d.h5", "w") as file:
        file["data"] = draw.rand(5, 3).astype("f4")
    datum = Datum(channels=3, height=12, width=15, data=bytes(540), label=1)
    box = {"group_label": 1, "annotation": [{"bbox": {"xmin": 0.1, "ymin": 0.1, "xmax": 0.8, "ymax": 0.7}}]}
    photograph = Datum(data=(folder / "a.jpg").read_bytes(), encoded=True)
    annotated = AnnotatedDatum(datum=photograph, type="BBOX", annotation_group=[box])
    for name, item in (("db", datum), ("annotated", annotated)):
        with (
            lmdb.open(os.fspath(folder / name), map_size=1 << 20) as opened,
            opened.begin(write=True) as writing,
        ):
            for i in range(3):
                writing.put(b"%08d" % i, item.SerializeToString())


def nets() -> list[bytes]:
    """The recorded layers' nets, and those of layers without a recording."""
    recorded = [
        case["prototxt"]
        for name in ("layers", "fork_layers", "deeplab_layers")
        for case in json.loads((GOLDEN / f"{name}.json").read_text())
    ]
    return [text.encode() for text in [*recorded, *map(_net, UNRECORDED)] if len(text) < 4000]


def _net(layer: str) -> str:
    return net(layer, *UNRECORDED[layer])


def net(layer: str, *shapes: tuple[int, ...]) -> str:
    """A layer over Input layers of these shapes."""
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "in{i}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {size}' for size in shape)} }} }} }}\n"
        for i, shape in enumerate(shapes)
    )
    bottoms = " ".join(f'bottom: "in{i}"' for i in range(len(shapes)))
    return f'force_backward: true\n{inputs}layer {{ name: "l" {bottoms} top: "y" {layer} }}\n'


def with_settings(data: bytes, edits: Sequence[Edit], is_text: bool = True) -> bytes:
    """The net's text with one setting changed for each edit (place: which, kind and value: how)."""
    net = parse_net(data.decode())
    for kind, place, value in edits:
        layer = net.layer[place % len(net.layer)]
        places = list(_places(layer, _own(layer)))
        if places:
            message, field = places[(place >> 8) % len(places)]
            _set(message, field, kind, value)
    return text_format.MessageToString(net, as_utf8=False).encode("latin-1")


def _own(layer: LayerParameter) -> set[str]:
    """The fields of a layer that it may read: those of every layer, and its own messages."""
    if layer.type == "Input":
        return {"input_param"}
    plain = {field.name for field in layer.DESCRIPTOR.fields if field.message_type is None}
    own = (*settings_of(layer.type), "transform_param") if layer.type in LAYER_TYPES else ()
    return plain - {"name"} | {field.name for field, _ in layer.ListFields()} | set(own)


def _places(
    message: Message, names: set[str] | None = None, depth: int = 0
) -> Iterator[tuple[Message, FieldDescriptor]]:
    for field in message.DESCRIPTOR.fields:
        if names is not None and field.name not in names:
            continue
        if field.message_type is None:
            yield message, field
        elif field.is_repeated:
            yield message, field
            for item in getattr(message, field.name):
                yield from _places(item, depth=depth + 1)
        elif depth < 2 or message.HasField(field.name):
            yield from _places(getattr(message, field.name), depth=depth + 1)


def _set(message: Message, field: FieldDescriptor, kind: int, value: int) -> None:
    if not field.is_repeated:
        setattr(message, field.name, _value(field, value))
        return
    items = getattr(message, field.name)
    if field.message_type is not None:
        items.add() if kind % 2 or not items else items.pop()
    elif kind % 4 == 0:
        items.append(_value(field, value))
    elif kind % 4 == 1 and items:
        items[value % len(items)] = _value(field, value >> 8)
    else:
        del items[:]
        items.extend([_value(field, value)] * (kind // 4 % 3))


def _value(field: FieldDescriptor, value: int) -> int | float | str | bytes | bool:
    if field.enum_type is not None:
        return field.enum_type.values[value % len(field.enum_type.values)].number
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return bool(value % 2)
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return _REAL[value % len(_REAL)]
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        text = _TEXT[value % len(_TEXT)]
        return text if field.type == FieldDescriptor.TYPE_STRING else text.encode()
    least, most = _RANGES[field.cpp_type]
    fitting = [number for number in _WHOLE if least <= number <= most]
    return fitting[value % len(fitting)]
