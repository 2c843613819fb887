"""What YOLO nets end in, of eric612/MobileNet-YOLO: boxes from maps of each cell's anchors."""

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from prototxt.layers.declare import MANY, Declared, Shapes, layer_type, refuse_other_fields, text


@layer_type("YoloDetectionOutput", bottoms=(1, 2))
def yolo_detection_output(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """YOLO v2's. `side`, `coords` and `label_map_file` change nothing. How many boxes there are is known in a pass."""
    param, where = layer.yolo_detection_output_param, "yolo_detection_output_param"
    if not param.num_classes or not param.num_box:
        raise InputError(f"{where}: num_classes and num_box must be at least 1")
    if len(param.biases) < 2 * param.num_box:
        raise InputError(
            f"{where}: give 2 biases for each of {param.num_box} anchors, not {len(param.biases)}"
        )
    for shape in shapes:
        if len(shape) != 4 or shape[2] != shape[3] or shape[1] % param.num_box:
            raise InputError(
                f"YoloDetectionOutput needs square maps of {param.num_box} anchors, not {text(shape)}"
            )
        _check_channels(shape[1] // param.num_box, param.num_classes)
    return Declared([(1, 1, 1, 7)])


@layer_type("Yolov3DetectionOutput", bottoms=(1, MANY))
def yolov3_detection_output(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """YOLO v3's, of maps of several sizes, each with its share of the anchors that `mask` lists."""
    param, where = layer.yolov3_detection_output_param, "yolov3_detection_output_param"
    if param.gaussian_box:
        refuse_other_fields(
            where, param, *(name for name in param.DESCRIPTOR.fields_by_name if name != "gaussian_box")
        )
    if not param.HasField("num_classes") or not param.num_classes or not param.num_box:
        raise InputError(f"{where}: give num_classes, and num_box of at least 1")
    if len(shapes) != param.mask_group_num or len(param.anchors_scale) < len(shapes):
        raise InputError(
            f"{where}: mask_group_num must be the number of maps, {len(shapes)}, with an anchors_scale for each"
        )
    share = len(param.mask) // param.mask_group_num
    used = [
        param.mask[n + i * share : n + i * share + 1]
        for i in range(len(shapes))
        for n in range(param.num_box)
    ]
    if not all(used) or 2 * max(each[0] for each in used) + 1 >= len(param.biases):
        raise InputError(
            f"{where}: mask must name {param.num_box} anchors for each map, which biases must have"
        )
    for shape in shapes:
        if len(shape) != 4 or min(shape[2:]) < 1:
            raise InputError(
                f"Yolov3DetectionOutput needs maps (num, channels, height, width), not {text(shape)}"
            )
        _check_channels(shape[1] // param.num_box, param.num_classes)
    return Declared([(1, 1, 1, 7)])


def _check_channels(values: int, classes: int) -> None:
    if values < 5 + classes:
        raise InputError(
            f"an anchor has {values} channels: 4 for its box, 1, and {classes} classes are needed"
        )
