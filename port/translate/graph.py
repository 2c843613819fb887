"""A plan as operations on values: splits and layers in place are gone, BatchNorm and Scale are one."""

from collections.abc import Mapping
from dataclasses import dataclass

from port.translate import detection_ops, fork_ops, loss_ops, recurrent_ops  # noqa: F401
from port.translate.ops import (
    TRANSLATIONS,
    Module,
    Op,
    Value,
    batch_norm,
    scale_of_batch_norm,
)
from prototxt.errors import InputError
from prototxt.plan import LayerPlan, Plan


@dataclass
class Graph:
    """A net to be written.

    Attributes:
        inputs, outputs: by blob name.
        ops: in the prototxt's order.
        blobs: each blob's last value, by name; of a BatchNorm that its Scale follows, there is none.
    """

    inputs: dict[str, Value]
    outputs: dict[str, Value]
    ops: list[Op]
    blobs: dict[str, Value]


def graph_of(plan: Plan) -> Graph:
    """The operations of a net.

    Raises:
        InputError: `file:line: layer "x": …` for the first layer that cannot be translated.
    """
    builder = _Builder(plan)
    for layer in plan.layers:
        with layer.errors():
            builder.add(layer)
    return builder.graph()


class _Builder:
    def __init__(self, plan: Plan):
        self.plan = plan
        self.values: dict[int, Value] = {}
        self.inputs: dict[str, Value] = {}
        self.ops: list[Op] = []
        self.modules: dict[int, Module] = {}
        self.last_read = {blob: layer.index for layer in plan.layers for blob in layer.bottoms}

    def add(self, layer: LayerPlan) -> None:
        if layer.type == "Input":
            for top, shape in zip(layer.tops, layer.declared.tops, strict=True):
                self.values[top] = Value(self.plan.blobs[top], tuple(shape))
                self.inputs[self.plan.blobs[top]] = self.values[top]
        elif layer.type == "Split":
            self.values |= dict.fromkeys(layer.tops, self.values[layer.bottoms[0]])
        elif layer.type != "Silence":
            self._refuse_overwriting(layer)
            self._compute(layer)

    def _refuse_overwriting(self, layer: LayerPlan) -> None:
        """A layer in place whose bottom's memory other layers still read: PyTorch has no such thing."""
        for top in set(layer.tops) & set(layer.bottoms):
            for mate in self.plan.memory_mates.get(top, ()):
                if mate != top and mate in self.values and self.last_read.get(mate, -1) > layer.index:
                    raise InputError(
                        f'it works in place on "{self.plan.blobs[top]}", whose memory "{self.plan.blobs[mate]}" '
                        "shares and a later layer reads: give its top a name of its own"
                    )

    def _compute(self, layer: LayerPlan) -> None:
        reads = [self.values[bottom] for bottom in layer.bottoms]
        if layer.type == "Scale" and self._merged(layer, reads):
            return
        if layer.type not in TRANSLATIONS:
            raise InputError(f"{layer.type} has no counterpart in PyTorch: it cannot be translated")
        if len(reads) > 1 and layer.type in ("Convolution", "Deconvolution", "DepthwiseConvolution"):
            for i, (value, top) in enumerate(zip(reads, layer.tops, strict=True)):
                self._append(layer, [value], [top], again=i > 0)
        else:
            self._append(layer, reads, layer.tops)

    def _append(
        self, layer: LayerPlan, reads: list[Value], tops: list[int] | tuple[int, ...], again: bool = False
    ) -> None:
        expression = TRANSLATIONS[layer.type](layer, [value.shape for value in reads])
        module = self.modules[layer.index] if again else self._module(layer, expression.module)
        if expression.text == "{0}":
            self.values |= dict.fromkeys(tops, reads[0])
            return
        made = dict(zip(layer.tops, map(tuple, layer.declared.tops), strict=True))
        shapes = {top: made[top] for top in tops}
        text = expression.text
        for i in self._cut_off(layer):
            text = text.replace(f"{{{i}}}", f"{{{i}}}.detach()")
        op = Op(
            (layer,),
            text,
            reads,
            [Value(self.plan.blobs[top], shape) for top, shape in shapes.items()],
            module,
            expression.follows,
            expression.infix,
        )
        self._keep(op, tops)

    def _keep(self, op: Op, tops: list[int] | tuple[int, ...]) -> None:
        self.ops.append(op)
        for value in dict.fromkeys(op.reads):
            value.users.append(op)
        self.values |= dict(zip(tops, op.makes, strict=True))

    def _cut_off(self, layer: LayerPlan) -> list[int]:
        """Bottoms that the prototxt's propagate_down gives no gradient, where something gives them one else."""
        if layer.type == "Python":  # SeeNet's masks, which give none anyway
            return []
        wanted = zip(layer.bottoms, layer.param.propagate_down, layer.propagate_down, strict=False)
        inputs = set(self.inputs.values())
        return [
            i
            for i, (bottom, want, forced) in enumerate(wanted)
            if not (want or forced) and self.values[bottom] not in inputs
        ]

    def _module(self, layer: LayerPlan, module: Module | None) -> Module | None:
        """The layer's module, or that of the layer whose weights it shares, if it shares them all."""
        if module is None:
            return None
        if module.tied and len(module.tied) == len(module.state):
            owners = {param.owner[0] for param in module.tied.values()}
            owner = self.modules.get(min(owners))
            places = [param.owner[1] for param in module.tied.values()]
            alike = owner and (owner.kind, owner.slots) == (module.kind, module.slots)
            if alike and len(owners) == 1 and places == list(range(len(places))):
                return owner
        if module.tied:
            raise InputError(
                "it shares some of another layer's weights, not the whole layer: that has no counterpart here"
            )
        self.modules[layer.index] = module
        return module

    def _merged(self, layer: LayerPlan, reads: list[Value]) -> bool:
        """Make a Scale one module with the BatchNorm before it, if it is its only reader."""
        before = self.ops[-1] if self.ops else None
        if (
            before is None
            or before.types != ("BatchNorm",)
            or reads != before.makes
            or not scale_of_batch_norm(layer)
            or self._read_again(before.layers[0], layer)
            or self._cut_off(layer)
        ):
            return False
        (norm,) = before.layers
        self.ops.pop()
        before.reads[0].users.remove(before)
        module = batch_norm(norm, layer, reads[0].shape)
        text = before.text
        makes = [Value(self.plan.blobs[layer.tops[0]], reads[0].shape)]
        self._keep(Op((norm, layer), text, before.reads, makes, module, True), layer.tops)
        return True

    def _read_again(self, norm: LayerPlan, scale: LayerPlan) -> bool:
        """Whether something else reads what the BatchNorm makes, or it is an output."""
        top = norm.tops[0]
        readers = [layer for layer in self.plan.layers[norm.index + 1 :] if top in layer.bottoms]
        return top not in scale.bottoms or (not scale.in_place and len(readers) > 1)

    def graph(self) -> Graph:
        names = self.plan.blobs
        outputs = {names[i]: self.values[i] for i in self.plan.outputs}
        blobs = {names[i]: value for i, value in self.values.items()}
        if not outputs:
            raise InputError(f'"{self.plan.name}" has no outputs: there is nothing to compute')
        used = _used(self.ops, outputs)
        return Graph(self.inputs, outputs, used, blobs)


def _used(ops: list[Op], outputs: Mapping[str, Value]) -> list[Op]:
    """The operations that outputs depend on."""
    wanted, kept = set(outputs.values()), []
    for op in reversed(ops):
        if wanted & set(op.makes):
            wanted |= set(op.reads)
            kept.append(op)
    kept.reverse()
    alive = set(kept)
    for op in kept:
        for value in (*op.reads, *op.makes):
            value.users = [user for user in value.users if user in alive]
    return kept
