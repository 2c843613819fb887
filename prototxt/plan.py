"""The execution plan of a net: what runs, on which blobs, with which gradients, as plain data.

Decided here once, for every engine, as Caffe's Net::Init and InsertSplits decide it (net.cpp,
insert_splits.cpp): the layers that the rules leave, `Split` layers where a blob is read more than once,
which layers work in place, who owns a shared weight, what needs a gradient, and the losses.
"""

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

from prototxt.alignment import Positions
from prototxt.caffe_pb2 import TEST, LayerParameter, NetParameter, NetState, ParamSpec, Phase
from prototxt.errors import InputError
from prototxt.layers.declare import (
    LAYER_TYPES,
    UNKNOWN,
    Declared,
    LayerType,
    Shape,
    Shapes,
    Weight,
    checked,
    declared,
    text,
    top_shapes,
    type_of,
)
from prototxt.layers.memory import lost_gradients, memories, overwritten_reads
from prototxt.limits import check_memory, memory_of
from prototxt.read import layer_line
from prototxt.rules import layer_included
from prototxt.unknown import refuse_unknown

AUTOMATIC = "(automatic)"
"""The name of a loss blob that the prototxt did not name."""


@dataclass(frozen=True)
class ParamPlan:
    """One weight blob of a layer.

    Attributes:
        name: the shared name, or "".
        owner: (layer index, blob index) of the blob it shares, or None where it is its own.
        lr_mult, decay_mult: of the blob that is learned (a sharer carries its owner's).
        needs_gradient: Caffe's param_propagate_down.
        permissive: sharing demands equal counts only, not equal shapes.
    """

    name: str
    owner: tuple[int, int] | None
    lr_mult: float
    decay_mult: float
    needs_gradient: bool
    permissive: bool = False


@dataclass(frozen=True)
class LayerPlan:
    """One layer, in execution order.

    Attributes:
        index: its place in the plan, by which engines know it: names may repeat.
        param: the layer's own message, with what Caffe's set-up sets in it: the phase, a loss's weight of 1,
            BatchNorm's rates of 0. So it is saved.
        bottoms, tops: blob indices; a blob that is both is worked on in place.
        propagate_down: per bottom, whether backward computes its gradient.
        needs_backward: whether backward runs at all.
        loss_weights: per top; 0 for what is not a loss.
        params: the weight blobs.
        overwritten_reads: blobs that Caffe's backward of this layer reads after they were overwritten.
        loses_gradient: in Caffe, what comes back to its top never reaches its bottom.
        bottom_shapes: when the net is set up.
        declared: what it makes of them: the tops' shapes, the weights.
        where: where it stands; `str(where)` is `file:line`.
    """

    index: int
    name: str
    type: str
    param: LayerParameter
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    propagate_down: tuple[bool, ...]
    needs_backward: bool
    loss_weights: tuple[float, ...]
    params: tuple[ParamPlan, ...]
    bottom_shapes: tuple[Shape, ...]
    declared: Declared
    where: "Place"
    overwritten_reads: tuple[int, ...] = ()
    loses_gradient: bool = False

    @property
    def in_place(self) -> bool:
        return bool(set(self.bottoms) & set(self.tops))

    def top_shapes(self, *shapes: Shape) -> Shapes:
        """The tops' shapes for bottoms of these shapes.

        Raises:
            InputError: what Caffe refuses, and bottoms that the weights do not fit.
        """
        if tuple(shapes) == self.bottom_shapes:
            return self.declared.tops
        return top_shapes(self.param, self.declared, shapes)

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Let an InputError raised inside name the file, the line and the layer."""
        return self.where.errors()


@dataclass(frozen=True)
class Plan:
    """A net, ready for an engine.

    Attributes:
        blobs: names by blob index. Unique but for `AUTOMATIC`.
        shapes: by blob index, when the net is set up; `UNKNOWN` only in a plan without set-up.
        memory: for each blob the first one that lies in its memory, most often itself.
        inputs: tops of `Input` layers, in order.
        outputs: blobs that no layer reads, by name, as Caffe lists them.
    """

    name: str
    phase: int
    layers: tuple[LayerPlan, ...]
    blobs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    memory: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    force_backward: bool
    debug_info: bool

    @cached_property
    def loss_weights(self) -> dict[int, float]:
        """By blob index, of the blobs that are losses."""
        return {
            top: weight
            for layer in self.layers
            for top, weight in zip(layer.tops, layer.loss_weights, strict=True)
            if weight
        }

    @cached_property
    def memory_mates(self) -> dict[int, tuple[int, ...]]:
        """For each blob that others share memory with, all that do, itself among them."""
        mates: defaultdict[int, list[int]] = defaultdict(list)
        for blob, first in enumerate(self.memory):
            mates[first].append(blob)
        return {
            blob: together
            for together in map(tuple, mates.values())
            if len(together) > 1
            for blob in together
        }

    def layer_index(self, name: str) -> int:
        """The first layer of that name.

        Raises:
            InputError: no layer has it.
        """
        for i, layer in enumerate(self.layers):
            if layer.name == name:
                return i
        raise InputError(f'no layer "{name}": this net has {", ".join(layer.name for layer in self.layers)}')


@dataclass(frozen=True)
class Step:
    """A layer whose turn it is while a net is planned.

    Attributes:
        bottoms, tops: blob indices.
        declared: what it makes of its bottoms; None where only its set-up can tell, and for Python layers, where
            a script's own may come before a built-in one.
    """

    index: int
    param: LayerParameter
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    bottom_shapes: tuple[Shape, ...]
    declared: Declared | None


SetUp = Callable[[Step], Declared | None]


def plan_net(
    net: NetParameter,
    phase: int = TEST,
    level: int = 0,
    stages: Sequence[str] = (),
    where: str = "prototxt",
    set_up: SetUp | None = None,
) -> Plan:
    """Plan the net for one phase, level and set of stages.

    Args:
        net: as `read_net` gives it; not changed. `level` and `stages` are added to its own `state`.
        where: the file's name, for messages.
        set_up: called for each layer in turn, as Caffe sets layers up: the order of random draws. Tells what a
            layer makes of its bottoms where its declaration does not (layers that open files, scripts'), or
            something else than its declaration. Without it such layers make blobs of `UNKNOWN` shape, and of a
            layer that reads one only the weights are planned that its text has a `param` for.

    Raises:
        InputError: `file:line: layer "x": …` for an unknown type, a bottom that nobody produces, a blob
            produced twice, and whatever else Caffe refuses.
    """
    state = NetState()
    state.CopyFrom(net.state)
    state.phase, state.level = cast("Phase", phase), level
    state.stage.extend(stages)

    try:
        refuse_unknown(net)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    occurrences: Counter[str] = Counter()
    layers: list[tuple[LayerParameter, Place]] = []
    for original in net.layer:
        place = Place(where, original.name, occurrences[original.name])
        occurrences[original.name] += 1
        with place.errors():
            if layer_included(original, state):
                refuse_unknown(original, LAYER_TYPES)
                layer = LayerParameter()
                layer.CopyFrom(original)
                if layer.type == "BatchNorm" and net.HasField(
                    "bn_stats_batch_size"
                ):  # Intel's, over the layer's own
                    layer.batch_norm_param.stats_batch_size = net.bn_stats_batch_size
                layers.append((layer, place))
    if any(layer.type == "AutoCrop" for layer, _ in layers):
        positions = Positions()
        for layer, place in layers:
            with place.errors():
                if layer.type == "AutoCrop":
                    positions.align(layer)
                positions.add(layer)
    builder = _Builder(phase, set_up)
    for layer, place in _with_splits(layers):
        with place.errors():
            builder.add(layer, place)
    builder.skip_what_no_loss_needs()
    if net.force_backward:
        builder.force_backward()
    return builder.finish(net)


@dataclass(frozen=True)
class Place:
    """Where a layer stands in its file; the line is looked up only when a message needs it."""

    where: str
    layer: str
    occurrence: int

    def __str__(self) -> str:
        return layer_line(self.where, self.layer, self.occurrence)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Let an InputError raised inside name the file, the line and the layer."""
        try:
            yield
        except InputError as error:
            # Of the same class, and with what else it tells; some take other arguments than a message.
            named = type(error).__new__(type(error))
            named.__dict__.update(error.__dict__)
            named.args = (f'{self}: layer "{self.layer}": {error}',)
            raise named from error


def _with_splits(layers: list[tuple[LayerParameter, Place]]) -> Iterator[tuple[LayerParameter, Place]]:
    """The layers, a blob that is read (or weighed as a loss) more than once replaced by its splits."""
    producer: dict[str, tuple[int, int]] = {}
    source: dict[tuple[int, int], tuple[int, int]] = {}
    readers: Counter[tuple[int, int]] = Counter()
    loss_weight: dict[tuple[int, int], float] = {}
    for i, (layer, place) in enumerate(layers):
        for j, bottom in enumerate(layer.bottom):
            if bottom not in producer:
                with place.errors():
                    raise InputError(_unknown_bottom(layer, bottom))
            source[i, j] = producer[bottom]
            readers[producer[bottom]] += 1
        producer.update({top: (i, j) for j, top in enumerate(layer.top)})
        for j, weight in enumerate(layer.loss_weight[: len(layer.top)]):
            if weight:
                loss_weight[producer[layer.top[j]]] = weight
                readers[producer[layer.top[j]]] += 1

    used: Counter[tuple[int, int]] = Counter()
    for i, (layer, place) in enumerate(layers):
        for j, blob in enumerate(layer.bottom):
            top = source[i, j]
            if readers[top] > 1:
                layer.bottom[j] = f"{blob}_{layers[top[0]][0].name}_{top[1]}_split_{used[top]}"
                used[top] += 1
        splits = []
        for j, blob in enumerate(layer.top):
            if readers[i, j] > 1:
                name = f"{blob}_{layer.name}_{j}_split"
                split = LayerParameter(name=name, type="Split", bottom=[blob])
                split.top.extend(f"{name}_{k}" for k in range(readers[i, j]))
                if (i, j) in loss_weight:
                    split.loss_weight.extend([loss_weight[i, j]] + [0] * (readers[i, j] - 1))
                    used[i, j] += 1
                splits.append(split)
        if any(split.loss_weight for split in splits):
            layer.ClearField("loss_weight")
        yield layer, place
        yield from ((split, place) for split in splits)


def _unknown_bottom(layer: LayerParameter, bottom: str) -> str:
    return f'bottom "{bottom}" is not produced by any earlier layer'


@dataclass
class _Draft:
    """A layer while its gradients are still being decided."""

    param: LayerParameter
    type: LayerType
    bottoms: list[int]
    tops: list[int]
    propagate_down: list[bool]
    needs_backward: bool
    loss_weights: tuple[float, ...]
    params: list[ParamPlan]
    bottom_shapes: tuple[Shape, ...]
    declared: Declared
    place: Place


@dataclass
class _Builder:
    phase: int
    set_up: SetUp | None
    layers: list[_Draft] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    memory: int = 0
    blob_needs_backward: list[bool] = field(default_factory=list)
    index: dict[str, int] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    owners: dict[str, tuple[int, int]] = field(default_factory=dict)
    specs: dict[tuple[int, int], ParamSpec] = field(default_factory=dict)
    inputs: list[int] = field(default_factory=list)

    def add(self, layer: LayerParameter, place: Place) -> None:
        if not layer.HasField("phase"):
            layer.phase = cast("Phase", self.phase)
        kind = type_of(layer)
        if layer.propagate_down and len(layer.propagate_down) != len(layer.bottom):
            raise InputError(
                f"{len(layer.propagate_down)} propagate_down for "
                f"{len(layer.bottom)} bottoms: give none or one for each"
            )
        bottoms = [self._bottom(layer, name) for name in layer.bottom]
        needs_backward = any(self.blob_needs_backward[b] for b in bottoms)
        propagate_down = list(layer.propagate_down) or [self.blob_needs_backward[b] for b in bottoms]
        tops = [self._top(layer, i, name) for i, name in enumerate(layer.top)]
        if kind.loss and not tops:
            tops.append(self._new_blob(AUTOMATIC))
        if layer.type == "Input":
            self.inputs += tops
        _check_counts(layer, kind, len(tops))
        loss_weights = _loss_weights(layer, kind, len(tops))
        shapes = tuple(self.shapes[b] for b in bottoms)
        made = self._made(layer, bottoms, tops, shapes)
        params = self._params(layer, made.weights)
        if kind.ends_gradient:
            params = [replace(param, needs_gradient=False) for param in params]
        needs_backward |= any(param.needs_gradient for param in params)
        needs_backward &= not kind.ends_gradient
        if needs_backward:
            for top in tops:
                self.blob_needs_backward[top] = True
        self.layers.append(
            _Draft(
                layer,
                kind,
                bottoms,
                tops,
                propagate_down,
                needs_backward,
                loss_weights,
                params,
                shapes,
                made,
                place,
            )
        )
        _set_what_set_up_sets(layer, loss_weights, made.weights)

    def _made(
        self, layer: LayerParameter, bottoms: list[int], tops: list[int], shapes: tuple[Shape, ...]
    ) -> Declared:
        """What the layer makes of its bottoms, checked before anything is allocated; its tops get their shapes."""
        told, made = None, None
        if self.set_up is None:
            made = _told_by_text(layer, shapes, len(tops))
            self._count(made)
        else:
            before = self.memory
            if layer.type != "Python":
                made = declared(layer, shapes, len(tops))
            if made is not None:
                self._count(made)
            told = self.set_up(Step(len(self.layers), layer, tuple(bottoms), tuple(tops), shapes, made))
            if made is None or told is not None:
                made = checked(told) if told else declared(layer, shapes, len(tops))
                if made is None:
                    raise InputError(f"what {layer.type} makes is known when it is set up, not before")
                self.memory = before
                self._count(made)
        if len(made.tops) != len(tops):
            raise InputError(f"{layer.type} makes {len(made.tops)} tops, not {len(tops)}")
        if told is None and UNKNOWN not in (*shapes, *made.tops):
            _check_in_place(layer, bottoms, shapes, tops, made)
        for top, shape in zip(tops, made.tops, strict=True):
            self.shapes[top] = tuple(shape)
        return made

    def _count(self, made: Declared) -> None:
        """Raises InputError where the blobs and weights so far do not fit into memory, drawn in double precision."""
        shapes = [*made.tops, *(weight.shape for weight in made.weights)]
        self.memory += memory_of(shapes)
        drawn = max((2 * memory_of([weight.shape]) for weight in made.weights if weight.filler), default=0)
        check_memory(self.memory + max(memory_of(made.scratch), drawn), [*shapes, *made.scratch])

    def skip_what_no_loss_needs(self) -> None:
        """Backwards through the net: no gradients for what leads to no loss, or only to skipped blobs."""
        under_loss: set[str] = set()
        skipped: set[str] = set()
        for layer in reversed(self.layers):
            top_names = [self.blobs[top] for top in layer.tops]
            contributes = any(layer.loss_weights) or any(name in under_loss for name in top_names)
            # A layer without tops counts as skipped too: nothing comes back to it (Caffe's loop is empty).
            if layer.needs_backward and all(name in skipped for name in top_names):
                layer.needs_backward = False
                layer.propagate_down = [False] * len(layer.bottoms)
            layer.needs_backward &= contributes
            for i, bottom in enumerate(layer.bottoms):
                if contributes:
                    under_loss.add(self.blobs[bottom])
                else:
                    layer.propagate_down[i] = False
                if not layer.propagate_down[i]:
                    skipped.add(self.blobs[bottom])

    def force_backward(self) -> None:
        for layer in self.layers:
            layer.needs_backward = True
            layer.propagate_down = [
                wanted or i not in layer.type.no_forced_gradient
                for i, wanted in enumerate(layer.propagate_down)
            ]
            layer.params = [replace(param, needs_gradient=True) for param in layer.params]

    def finish(self, net: NetParameter) -> Plan:
        layers = [
            LayerPlan(
                index=index,
                name=draft.param.name,
                type=draft.param.type,
                param=draft.param,
                bottoms=tuple(draft.bottoms),
                tops=tuple(draft.tops),
                propagate_down=tuple(draft.propagate_down),
                needs_backward=draft.needs_backward,
                loss_weights=draft.loss_weights,
                params=tuple(draft.params),
                bottom_shapes=draft.bottom_shapes,
                declared=draft.declared,
                where=draft.place,
            )
            for index, draft in enumerate(self.layers)
        ]
        memory = memories(layers, len(self.blobs))
        layers = [
            replace(layer, overwritten_reads=reads, loses_gradient=lost)
            for layer, reads, lost in zip(
                layers, overwritten_reads(layers, memory), lost_gradients(layers), strict=True
            )
        ]
        outputs = tuple(self.index[name] for name in sorted(self.unread))
        return Plan(
            name=net.name,
            phase=self.phase,
            layers=tuple(layers),
            blobs=tuple(self.blobs),
            shapes=tuple(self.shapes),
            memory=memory,
            inputs=tuple(self.inputs),
            outputs=outputs,
            force_backward=net.force_backward,
            debug_info=net.debug_info,
        )

    def _bottom(self, layer: LayerParameter, name: str) -> int:
        if name not in self.unread:
            raise InputError(_unknown_bottom(layer, name))
        self.unread.remove(name)
        return self.index[name]

    def _top(self, layer: LayerParameter, position: int, name: str) -> int:
        in_place = position < len(layer.bottom) and layer.bottom[position] == name
        if name in self.index and not in_place:
            raise InputError(
                f'top "{name}" is already produced by an earlier layer: '
                "rename one of the two (in place means the same name as bottom and top)"
            )
        self.unread.add(name)
        if not in_place:
            self.index[name] = self._new_blob(name)
        return self.index[name]

    def _new_blob(self, name: str) -> int:
        self.blobs.append(name)
        self.shapes.append(())
        self.blob_needs_backward.append(False)
        return len(self.blobs) - 1

    def _params(self, layer: LayerParameter, weights: Sequence[Weight]) -> list[ParamPlan]:
        count = len(weights)
        if len(layer.param) > count:
            raise InputError(
                f"{len(layer.param)} param entries for {count} weight blobs: remove the extra ones"
            )
        params = []
        for i, weight in enumerate(weights):
            spec = layer.param[i] if i < len(layer.param) else ParamSpec()
            here = (len(self.layers), i)
            owner = self.owners.setdefault(spec.name, here) if spec.name else here
            shared = self.specs.setdefault(owner, ParamSpec.FromString(spec.SerializeToString()))
            if owner != here:
                _agree(layer, spec, shared)
            params.append(
                ParamPlan(
                    name=spec.name,
                    owner=None if owner == here else owner,
                    lr_mult=0 if "lr_mult" in weight.fixed else shared.lr_mult,
                    decay_mult=0 if "decay_mult" in weight.fixed else shared.decay_mult,
                    needs_gradient=spec.lr_mult != 0,
                    permissive=spec.share_mode == ParamSpec.PERMISSIVE,
                )
            )
        return params


def _agree(layer: LayerParameter, spec: ParamSpec, shared: ParamSpec) -> None:
    """A sharer may set a multiplier that the owner left out, but not contradict it."""
    for name in ("lr_mult", "decay_mult"):
        if not spec.HasField(name):
            continue
        if shared.HasField(name) and getattr(shared, name) != getattr(spec, name):
            raise InputError(
                f'shared param "{spec.name}" has {name} {getattr(spec, name):g} here and '
                f"{getattr(shared, name):g} at its owner: make them equal"
            )
        setattr(shared, name, getattr(spec, name))


def _check_counts(layer: LayerParameter, kind: LayerType, tops: int) -> None:
    for which, count, (least, most) in (
        ("bottom", len(layer.bottom), kind.bottoms),
        ("top", tops, kind.tops),
    ):
        if not least <= count <= most:
            due = f"{least}" if least == most else f"{least} or more" if most > 99 else f"{least} to {most}"
            raise InputError(f"{layer.type} takes {due} {which} blobs, not {count}")
    if kind.equal and len(layer.bottom) != tops:
        raise InputError(
            f"{layer.type} makes one top for each bottom: {len(layer.bottom)} bottoms, {tops} tops"
        )


def _told_by_text(layer: LayerParameter, shapes: Shapes, tops: int) -> Declared:
    """What the layer makes, as far as it is known without setting it up."""
    made = None if UNKNOWN in shapes else declared(layer, shapes, tops)
    return made or Declared([UNKNOWN] * tops, [Weight(UNKNOWN)] * len(layer.param))


def _check_in_place(
    layer: LayerParameter, bottoms: Sequence[int], shapes: Shapes, tops: Sequence[int], made: Declared
) -> None:
    """Refuse a layer in place that gives its blob another shape in each pass: Caffe would work on what is left."""
    after = dict(zip(tops, made.tops, strict=True))
    for bottom, shape in zip(bottoms, shapes, strict=True):
        if bottom not in after or after[bottom] == shape:
            continue
        again = [after.get(b, s) for b, s in zip(bottoms, shapes, strict=True)]
        if math.prod(after[bottom]) != math.prod(shape) or declared(layer, again, len(tops)) != made:
            raise InputError(
                f"{layer.type} in place would make {text(after[bottom])} of a blob of shape {text(shape)}: give the "
                "top a name of its own"
            )


def _loss_weights(layer: LayerParameter, kind: LayerType, tops: int) -> tuple[float, ...]:
    weighted = kind.loss and not kind.own_weight(layer)
    weights = list(layer.loss_weight) or ([1.0] if weighted else [0.0] * tops)
    if len(weights) != tops:
        raise InputError(
            f"{len(weights)} loss_weight for {tops} tops: give one for each (0 for a top that is not a loss)"
        )
    return tuple(weights)


def _set_what_set_up_sets(
    layer: LayerParameter, loss_weights: tuple[float, ...], weights: Sequence[Weight]
) -> None:
    """Put into the message what Caffe's layers put into theirs while they are set up, and save with it."""
    if any(loss_weights) and not layer.loss_weight:
        layer.loss_weight.append(1)
    if any(weight.fixed for weight in weights):
        layer.param.extend(ParamSpec() for _ in range(len(layer.param), len(weights)))
    for i, weight in enumerate(weights):
        for name in weight.fixed:
            setattr(layer.param[i], name, 0)
