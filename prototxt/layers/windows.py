"""Window geometry of convolution and pooling layers: what their messages say, and the sizes that follow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prototxt.caffe_pb2 import ConvolutionParameter, PoolingParameter
from prototxt.errors import InputError
from prototxt.limits import TooLargeError

MOST = (1 << 31) - 1
"""Caffe keeps a window's sizes, and a map's with its padding, in an int."""


@dataclass(frozen=True)
class Window:
    """Kernel, stride, pad and dilation, one number for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Positions that the dilated kernel spans."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def padded(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The map's sizes with the padding around it.

        Raises:
            TooLargeError: one that Caffe's int does not hold.
        """
        return _within(tuple(size + 2 * p for size, p in zip(sizes, self.pad, strict=True)), "the padded map")

    def convolved(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Output sizes of a convolution: rounded down.

        Raises:
            InputError: where the kernel does not fit into the padded input.
        """
        padded = self.padded(sizes)
        out = tuple((n - e) // s + 1 for n, e, s in zip(padded, self.extent, self.stride, strict=True))
        if any(size < 1 for size in out):
            raise InputError(
                f"a kernel spanning {self.extent} does not fit into {tuple(sizes)} with pad {self.pad}"
            )
        return out

    def deconvolved(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Output sizes of a deconvolution."""
        return tuple(
            s * (size - 1) + e - 2 * p
            for size, p, e, s in zip(sizes, self.pad, self.extent, self.stride, strict=True)
        )


def canonical_axis(axis: int, axes: int) -> int:
    """A possibly negative axis as an index.

    Raises:
        InputError: outside of `axes` axes.
    """
    if not -axes <= axis < axes:
        raise InputError(f"axis {axis} is out of range for a blob of {axes} axes")
    return axis % axes


def convolution_window(param: ConvolutionParameter, spatial_axes: int) -> Window:
    """The window of Convolution, Deconvolution and Im2col layers (base_conv_layer.cpp).

    Raises:
        InputError: no kernel, a zero kernel or stride, or more numbers than axes.
    """

    def each(name: str, default: int, short: str) -> tuple[int, ...]:
        values = list(getattr(param, name))
        if short and (param.HasField(f"{short}_h") or param.HasField(f"{short}_w")):
            if spatial_axes != 2 or values:
                raise InputError(f"{short}_h and {short}_w are for two spatial axes, and without {name}")
            return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
        if len(values) not in (0, 1, spatial_axes):
            raise InputError(
                f"{name} has {len(values)} values for {spatial_axes} spatial axes: give 1 or one each"
            )
        if not values:
            return (default,) * spatial_axes
        return tuple(values) if len(values) > 1 else (values[0],) * spatial_axes

    window = Window(
        each("kernel_size", 0, "kernel"),
        each("stride", 1, "stride"),
        each("pad", 0, "pad"),
        each("dilation", 1, ""),
    )
    if not all(window.kernel):
        raise InputError("kernel_size is missing or 0")
    if not all(window.stride) or not all(window.dilation):
        raise InputError("stride and dilation must be at least 1")
    _within(window.stride, "stride")
    _within(window.extent, "the dilated kernel")
    return window


def pooling_window(param: PoolingParameter, height: int, width: int) -> Window:
    """The window of a Pooling layer over a `height` × `width` map (pooling_layer.cpp).

    Raises:
        InputError: what Caffe refuses: no kernel or two, padding as large as the kernel, global with pads.
    """
    kernel = _pair(param, "kernel_size", "kernel")
    stride = _pair(param, "stride", "stride")
    pad = _pair(param, "pad", "pad")
    if param.global_pooling:
        if param.HasField("kernel_size") or param.HasField("kernel_h") or param.HasField("kernel_w"):
            raise InputError("global_pooling takes no kernel_size: the kernel is the whole map")
        if pad != (0, 0) or stride != (1, 1):
            raise InputError("global_pooling goes with pad 0 and stride 1 only")
        kernel = (height, width)
    if not all(kernel):
        raise InputError("kernel_size (or kernel_h and kernel_w) is missing or 0")
    if not all(stride):
        raise InputError("stride must be at least 1")
    if any(p >= k for p, k in zip(pad, kernel, strict=True)):
        raise InputError(f"pad {pad} must be smaller than the kernel {kernel}")
    if any(pad) and param.pool == PoolingParameter.STOCHASTIC:
        raise InputError("stochastic pooling takes no pad")
    _within(stride, "stride")
    _within(kernel, "kernel")
    return Window(kernel, stride, pad, (1, 1))


def pooled_sizes(param: PoolingParameter, window: Window, sizes: Sequence[int]) -> tuple[int, ...]:
    """Output sizes of pooling: Caffe rounds UP unless told FLOOR, then drops a window in the padding.

    Raises:
        InputError: where no window fits.
    """
    rounding = math.floor if param.round_mode == PoolingParameter.FLOOR else math.ceil
    out = []
    padded = window.padded(sizes)
    for size, n, k, s, p in zip(sizes, padded, window.kernel, window.stride, window.pad, strict=True):
        pooled = rounding((n - k) / s) + 1
        if any(window.pad) and (pooled - 1) * s >= size + p:
            pooled -= 1
        if pooled < 1:
            raise InputError(f"a {window.kernel} pooling window does not fit into {tuple(sizes)}")
        out.append(pooled)
    return tuple(out)


def pooled_padding(window: Window, sizes: Sequence[int], out: Sequence[int]) -> tuple[int, ...]:
    """The sizes of the map with its padding, and behind it whatever more the last windows reach over.

    Raises:
        TooLargeError: one that Caffe's int does not hold.
    """
    reached = ((n - 1) * s + k for n, s, k in zip(out, window.stride, window.kernel, strict=True))
    return _within(tuple(map(max, window.padded(sizes), reached)), "the padded map")


def _within(sizes: tuple[int, ...], what: str) -> tuple[int, ...]:
    if max(sizes, default=0) > MOST:
        raise TooLargeError(f"{what} would be of size {max(sizes)}, more than Caffe's {MOST}")
    return sizes


def _pair(param: PoolingParameter, both: str, short: str) -> tuple[int, int]:
    high, wide = param.HasField(f"{short}_h"), param.HasField(f"{short}_w")
    if not high and not wide:
        return (getattr(param, both),) * 2
    if param.HasField(both) or high != wide:
        raise InputError(f"give {both}, or {short}_h and {short}_w, not a mix")
    return getattr(param, f"{short}_h"), getattr(param, f"{short}_w")
