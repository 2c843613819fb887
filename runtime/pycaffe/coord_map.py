"""`caffe.coord_map`: how positions in one blob of a NetSpec relate to those in another (pycaffe's coord_map.py).

A map is (axis, scale, shift): position i of the blob mapped from lies at i · scale + shift of the one mapped
to, along the axes behind `axis`, which is None where positions stay as they are. Scale and shift are numbers,
or one number for each spatial axis.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from runtime.pycaffe.net_spec import Function, Top, layers

PASS_THROUGH_LAYERS = [
    "AbsVal",
    "BatchNorm",
    "Bias",
    "BNLL",
    "Dropout",
    "Eltwise",
    "ELU",
    "Log",
    "LRN",
    "Exp",
    "MVN",
    "Power",
    "ReLU",
    "PReLU",
    "Scale",
    "Sigmoid",
    "Split",
    "TanH",
    "Threshold",
]

CoordMap = tuple[int | None, Any, Any]

_IDENTITY: CoordMap = (None, 1, 0)


class UndefinedMapException(Exception):
    """A layer that does not relate positions."""


class AxisMismatchException(Exception):
    """Maps of different axes."""


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Axis, stride, extent of the dilated kernel, and pad of a convolving or pooling layer."""
    fields = fn.params.get("convolution_param", fn.params)
    legacy = {f"{stem}_{side}" for stem in ("pad", "kernel", "stride") for side in "hw"}
    assert not legacy & (set(fields) | set(fn.params)), "cropping does not support legacy _h/_w params"
    kernel = np.array(fields["kernel_size"], ndmin=1)
    stride, pad, dilation = (
        np.array(fields.get(name, default), ndmin=1)
        for name, default in (("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return fields.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """Axis and offset of a Crop layer."""
    fields = fn.params.get("crop_param", fn.params)
    return fields.get("axis", 2), np.array(fields.get("offset", 0), ndmin=1)


def coord_map(fn: Function) -> CoordMap:
    """The map from a layer's bottoms to its tops.

    Raises:
        UndefinedMapException: a type that does not relate positions.
    """
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, extent, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (extent - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, extent, pad = conv_params(fn)
        return axis, stride, (extent - 1) / 2 - pad
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    if fn.type_name in PASS_THROUGH_LAYERS:
        return _IDENTITY
    raise UndefinedMapException(fn.type_name)


def compose(base_map: CoordMap, next_map: CoordMap) -> CoordMap:
    """`next_map` after `base_map`.

    Raises:
        AxisMismatchException: both name an axis, and not the same.
    """
    (axis, scale, shift), (next_axis, next_scale, next_shift) = base_map, next_map
    if None not in (axis, next_axis) and axis != next_axis:
        raise AxisMismatchException(f"axis {axis} and axis {next_axis}")
    return next_axis if axis is None else axis, scale * next_scale, scale * next_shift + shift


def inverse(coord_map: CoordMap) -> CoordMap:
    """The map the other way."""
    axis, scale, shift = coord_map
    return axis, 1 / scale, -shift / scale


def coord_map_from_to(top_from: Top, top_to: Top) -> CoordMap:
    """The map between two tops that descend from one blob.

    Raises:
        RuntimeError: no common ancestor that layers with maps lead to.
        AxisMismatchException: layers on the way that work on different axes.
    """
    from_maps = dict(_ancestors(top_from))
    for top, to_map in _ancestors(top_to):
        if top in from_maps:
            return compose(to_map, inverse(from_maps[top]))
    raise RuntimeError("Could not compute map between tops; are they connected by spatial layers?")


def _ancestors(top: Top) -> Iterator[tuple[Top, CoordMap]]:
    """A top and the tops that it comes from, nearest first, with the maps from them to it."""
    found = {top: _IDENTITY}
    todo = [top]
    for here in todo:  # which grows
        yield here, found[here]
        try:
            step = coord_map(here.fn)
        except UndefinedMapException:
            continue
        # A Crop's second bottom gives a size only: positions do not come from it.
        for bottom in here.fn.inputs[: 1 if here.fn.type_name == "Crop" else None]:
            if bottom not in found:
                found[bottom] = compose(found[here], step)
                todo.append(bottom)


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts `top_from` to the part that lies over `top_to`.

    Raises:
        AssertionError: the two differ in scale, or the offset is negative or no whole number.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    assert axis is not None, "no spatial layer leads from one to the other"
    assert np.all(scale == 1), f"scale mismatch on crop (a = {scale})"
    assert np.all(shift <= 0), f"cannot crop negative offset (b = {shift})"
    assert np.all(np.round(shift) == shift), f"cannot crop noninteger offset (b = {shift})"
    offset = [int(value) for value in np.atleast_1d(-np.round(shift))]
    crop_layer: Any = layers.Crop
    return crop_layer(top_from, top_to, crop_param={"axis": axis + 1, "offset": offset})
