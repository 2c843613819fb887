"""`caffe.NetSpec`: nets written in Python (pycaffe's net_spec.py).

n = NetSpec()
n.data = layers.Input(shape=dict(dim=[1, 3, 8, 8]))
n.conv = layers.Convolution(n.data, num_output=2, kernel_size=3)
text = str(n.to_proto())
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from prototxt import caffe_pb2
from prototxt.caffe_pb2 import LayerParameter, NetParameter


class Top:
    """One output of a layer: the `n`-th of `fn`."""

    def __init__(self, fn: "Function", n: int):
        self.fn, self.n = fn, n

    def to_proto(self) -> NetParameter:
        """The net of all layers that this top needs, blobs and layers named by their types."""
        return to_proto(self)


class Function:
    """A layer: its type, its bottoms, and its fields as a dict.

    Attributes:
        type_name, inputs, params, ntop, in_place, tops.

    Raises:
        TypeError: a bottom that is no Top.
    """

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict[str, Any]):
        for i, bottom in enumerate(inputs):
            if not isinstance(bottom, Top):
                raise TypeError(f"{type_name} input {i} is not a Top (type is {type(bottom)})")
        self.type_name, self.inputs, self.params = type_name, inputs, params
        self.ntop: int = params.pop("ntop", 1)
        self.in_place: bool = params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))


class NetSpec:
    """A net whose blobs are its attributes (or items): what a top is assigned to is its name."""

    tops: "dict[str, Top | Function]"

    def __init__(self) -> None:
        super().__setattr__("tops", {})

    def __setattr__(self, name: str, value: Top | Function) -> None:
        self.tops[name] = value

    def __getattr__(self, name: str) -> Top | Function:
        return self.tops[name]

    __setitem__ = __setattr__
    __getitem__ = __getattr__

    def to_proto(self) -> NetParameter:
        """The net of all layers that the assigned tops need, in the order in which they are needed."""
        writer = _Writer({value: name for name, value in self.tops.items()})
        for value in self.tops.values():
            writer.write(value)
        return writer.net()


def to_proto(*tops: Top) -> NetParameter:
    """The net of all layers that `tops` need, blobs and layers named by their types: Convolution1, …"""
    writer = _Writer({})
    for top in tops:
        writer.write(top)
    return writer.net()


class _Writer:
    """Layers as messages, each after those it reads from."""

    def __init__(self, names: dict[Top | Function, str]):
        self._names = names
        self._used: Counter[str] = Counter()
        self._layers: dict[Function, LayerParameter] = {}

    def write(self, value: Top | Function) -> None:
        """The layer behind `value`, after all that it needs; without recursion, for nets of any depth."""
        todo = [value if isinstance(value, Function) else value.fn]
        while todo:
            fn = todo[-1]
            missing = [bottom.fn for bottom in fn.inputs if bottom.fn not in self._layers]
            if missing and fn not in self._layers:
                todo.append(missing[0])
                continue
            todo.pop()
            if fn not in self._layers:
                self._layers[fn] = self._message(fn)

    def net(self) -> NetParameter:
        return NetParameter(layer=self._layers.values())

    def _message(self, fn: Function) -> LayerParameter:
        layer = LayerParameter(type=fn.type_name)
        layer.bottom.extend(self._layers[bottom.fn].top[bottom.n] for bottom in fn.inputs)
        layer.top.extend(layer.bottom if fn.in_place else [self._name(top, fn) for top in fn.tops])
        # A layer is called what its first top is called, also where that works in place on another's blob.
        layer.name = self._name(fn.tops[0] if fn.tops else fn, fn)
        own: Message | None = getattr(layer, f"{_param_names.get(fn.type_name, '')}_param", None)
        for name, value in fn.params.items():
            in_own = own is not None and not name.endswith("param") and hasattr(own, name)
            assign_proto(own if in_own and own is not None else layer, name, value)
        return layer

    def _name(self, value: Top | Function, fn: Function) -> str:
        if value not in self._names:
            self._used[fn.type_name] += 1
            self._names[value] = f"{fn.type_name}{self._used[fn.type_name]}"
        return self._names[value]


def assign_proto(proto: Message, name: str, val: Any) -> None:
    """Set a field: a dict fills a message, a list a repeated field, which also takes a single value.

    Raises:
        AttributeError: no such field.
    """
    field = getattr(proto, name)
    if hasattr(field, "extend"):
        for item in val if isinstance(val, list | tuple) else [val]:
            if isinstance(item, dict):
                _fill(field.add(), item)
            else:
                field.append(item)
    elif isinstance(val, dict):
        _fill(field, val)
    else:
        setattr(proto, name, val)


def _fill(proto: Message, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        assign_proto(proto, name, value)


def param_name_dict() -> dict[str, str]:
    """Layer type → stem of its field in LayerParameter: InnerProduct → inner_product."""
    return {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in LayerParameter.DESCRIPTOR.fields
        if field.name.endswith("_param") and field.message_type is not None
    }


class Layers:
    """`layers.TYPE(*bottoms, ntop=1, in_place=False, **fields)`: a top, tops, or for ntop=0 the layer itself."""

    def __getattr__(self, name: str) -> Callable[..., Top | tuple[Top, ...] | Function]:
        def layer(*bottoms: Top, **fields: Any) -> Top | tuple[Top, ...] | Function:
            fn = Function(name, bottoms, fields)
            if not fn.tops:
                return fn
            return fn.tops[0] if len(fn.tops) == 1 else fn.tops

        return layer


class Parameters:
    """`params.Pooling.MAX`: the constants of the messages."""

    def __getattr__(self, name: str) -> type[Message]:
        return getattr(caffe_pb2, f"{name}Parameter")


_param_names = param_name_dict()
layers = Layers()
params = Parameters()
