"""Operations as lines of code, and the lines that a net repeats as blocks."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from port.translate.graph import Graph
from port.translate.names import Names, identifier, without_what_differs
from port.translate.ops import Op, Slot, Value

WIDTH = 88
"""Of a line: what the usual formatters take."""

LONGEST = 64
"""Lines that a block may have."""


@dataclass(eq=False)
class Line:
    """Operations that are written as one statement: the first, and what follows on its result."""

    ops: list[Op]

    @property
    def reads(self) -> list[Value]:
        return self.ops[0].reads

    @property
    def makes(self) -> list[Value]:
        return self.ops[-1].makes


@dataclass(eq=False)
class Block:
    """A class of the model: lines that occur several times, with other numbers.

    Attributes:
        instances: for each occurrence its lines; all alike but for the `parameters`.
        inputs: the values that the first occurrence reads from outside.
        locals: by operation number the name of its module and of its (first) value.
        parameters: name → for each occurrence its value.
        of_slot: (operation number, slot number) → the parameter that it gets.
    """

    instances: list["Instance"]
    name: str
    title: str
    modules: list[str]
    values: list[str]
    parameters: dict[str, list[object]]
    of_slot: dict[tuple[int, int], str]


@dataclass(eq=False)
class Instance:
    """One occurrence of a block."""

    lines: list[Line]
    inputs: list[Value]
    block: Block | None = None
    number: int = 0

    @property
    def ops(self) -> list[Op]:
        return [op for line in self.lines for op in line.ops]

    @property
    def output(self) -> Value:
        return self.lines[-1].makes[0]


_MOST_IN_A_LINE = 20
"""Operations within operations: Python reads about a hundred brackets, people fewer."""


def lines_of(graph: Graph) -> list[Line]:
    """The operations, each on a line of its own but for those that follow another."""
    lines: list[Line] = []
    kept = set(graph.outputs.values())
    for op in graph.ops:
        before = lines[-1] if lines else None
        if (
            op.follows
            and before
            and before.makes == op.reads
            and op.reads[0].users == [op]
            and op.reads[0] not in kept
            and op.text.count("{0}") == 1
            and len(before.ops) < _MOST_IN_A_LINE
            and (before.ops[-1].module or before.ops[-1].infix or before.ops[-1].follows)
            and (not op.text.startswith("{0}.") or _width(before, op) <= WIDTH)
        ):
            before.ops.append(op)
        else:
            lines.append(Line([op]))
    return lines


def _width(line: Line, op: Op) -> int:
    """At least what the line would take with `op` behind it: formatters do not break a chain of calls well."""
    names = [op.makes[0].blob, *(value.blob for value in line.reads)]
    names += [layer.name for each in line.ops if each.module for layer in each.layers[:1]]
    texts = [each.text for each in (*line.ops, op)]
    return 16 + sum(map(len, names)) + sum(len(re.sub(r"{\w}", "", text)) for text in texts)


def with_blocks(lines: list[Line], kept: Collection[Value]) -> tuple[list[Line | Instance], list[Block]]:
    """The lines with those that are repeated as instances of blocks, and the blocks.

    Args:
        kept: values that no block may hide: the net's outputs.
    """
    items: list[Line | Instance] = list(lines)
    blocks: list[Block] = []
    names = Names()
    for inputs in (1, 2):
        while found := _best(items, kept, inputs):
            _extract(items, *found, blocks, names)
    return items, blocks


def _extract(
    items: list[Line | Instance], length: int, starts: list[int], blocks: list[Block], names: Names
) -> None:
    """Make the windows of `length` lines at `starts` instances of a new block."""
    instances = [_instance(items[start : start + length]) for start in starts]
    blocks.append(_block(instances, names))
    for start, instance in reversed(list(zip(starts, instances, strict=True))):
        items[start : start + length] = [instance]


def _best(
    items: Sequence[Line | Instance], kept: Collection[Value], inputs: int
) -> tuple[int, list[int]] | None:
    """(length, starts) of the window that saves most when it becomes a block."""
    groups: dict[object, list[int]] = defaultdict(list)
    tokens = [_token(item) for item in items]
    seen: dict[object, int] = {}
    for token in tokens:
        if token is not None:
            seen[token] = seen.get(token, 0) + 1
    for start in range(len(items)):
        for shape in _shapes(items[start : start + LONGEST], kept, tokens[start:], seen, inputs):
            groups[shape].append(start)
    best, most = None, 0
    for shape, starts in groups.items():
        length = len(shape[0])
        apart: list[int] = []
        for start in starts:
            if not apart or start >= apart[-1] + length:
                apart.append(start)
        saved = (len(apart) - 1) * sum(map(len, shape[0]))
        joins = shape[1]
        if len(apart) < (2 if joins else 3) or saved <= most:
            continue
        best, most = (length, apart), saved
    return best


_LOSS = re.compile(r"\w+_loss\(|accuracy\(")


def _token(item: Line | Instance) -> tuple | None:
    """What lines must have in common to be the same line of a block; None for what blocks do not hold."""
    if isinstance(item, Instance) or any(_LOSS.match(op.text) for op in item.ops):
        return None
    return tuple((op.text, _module_token(op)) for op in item.ops)


_FREE = ("inputs", "outputs", "stride", "padding", "dilation", "groups")


def _module_token(op: Op) -> tuple | None:
    if op.module is None:
        return None
    if len({layer.index for layer in op.layers}) != len(op.layers) or op.module.layers != op.layers:
        return (object(),)  # weights that several layers share stay outside of blocks
    slots = tuple(
        (slot.role, slot.keyword, None if slot.role in _FREE else slot.value) for slot in op.module.slots
    )
    return (op.module.kind, slots, op.module.frozen)


def _shapes(
    items: Sequence["Line | Instance"],
    kept: Collection[Value],
    tokens: Sequence[tuple | None],
    seen: Mapping[object, int],
    inputs: int,
) -> Iterator[tuple]:
    """For each number of lines, from the first on, that can be a block, how they hang together.

    A block has one result, which is made last, and as many inputs as asked, all of which its first line reads. What
    goes on behind a block that has joined something is another block.
    """
    inside: dict[Value, tuple[int, int]] = {}
    outside: dict[Value, int] = {}
    ops: set[Op] = set()
    cuts: list[int] = []
    reads: list[tuple[tuple[int, int], ...]] = []
    joins = parts = False
    for i, line in enumerate(items):
        if tokens[i] is None or seen[tokens[i]] < 2:
            return
        reads.append(
            tuple(
                inside[value] if value in inside else (-1, outside.setdefault(value, len(outside)))
                for value in line.reads
            )
        )
        if len(outside) > inputs or (i == 0 and len(outside) != inputs):
            return
        inside |= {value: (i, j) for j, value in enumerate(line.makes)}
        ops |= set(line.ops)
        joins |= len(set(line.reads)) > 1
        parts |= any(map(_is_depthwise, line.ops))
        leaving = [value for value in inside if value in kept or any(user not in ops for user in value.users)]
        if leaving != line.makes or len(leaving) != 1 or not (joins or parts):
            continue
        if any(all(last >= cut for row in reads[cut + 1 :] for last, _ in row) for cut in cuts):
            continue  # two blocks, one after the other
        if i:
            yield tuple(tokens[: i + 1]), joins, tuple(reads)
        if joins:
            cuts.append(i)


def _is_depthwise(op: Op) -> bool:
    if op.module is None:
        return False
    roles = {slot.role: slot.value for slot in op.module.slots}
    return roles.get("groups", 1) == roles.get("inputs") != 1


def _instance(window: Sequence[Line]) -> Instance:
    made = {value for line in window for value in line.makes}
    inputs = dict.fromkeys(value for line in window for value in line.reads if value not in made)
    return Instance(list(window), list(inputs))


# ---- a block's names and parameters


def _block(instances: list[Instance], names: Names) -> Block:
    rows = [instance.ops for instance in instances]
    locals_ = _local_names(rows)
    parameters, of_slot = _parameters(instances, locals_)
    title, name = _what_it_is(instances[0])
    values = _value_names(rows, instances[0].lines)
    block = Block(instances, names.give(name, ""), title, locals_, values, parameters, of_slot)
    for number, instance in enumerate(instances):
        instance.block, instance.number = block, number
    return block


def _local_names(rows: Sequence[Sequence[Op]]) -> list[str]:
    """For each operation of a block the name of its module: what its layers' names have in common."""
    wanted = [without_what_differs([row[i].layers[0].name for row in rows]) for i in range(len(rows[0]))]
    return _cleaned(wanted, [op.layers[0].type for op in rows[0]], [op.module is not None for op in rows[0]])


def _value_names(rows: Sequence[Sequence[Op]], lines: Sequence[Line]) -> list[str]:
    """For each operation the name of its result, by its blob; where that is no name, by what its line begins with."""
    wanted = [without_what_differs([row[i].makes[0].blob for row in rows]) for i in range(len(rows[0]))]
    types = [line.ops[0].layers[0].type for line in lines for _ in line.ops]
    return _cleaned(wanted, types, [False] * len(wanted))


def _cleaned(wanted: list[str], types: list[str], counted: list[bool]) -> list[str]:
    prefix = ""
    heads = {name.split(sep)[0] + sep for sep in "/_" for name in wanted if sep in name}
    for head in sorted(heads, key=len, reverse=True):
        if all(name.startswith(head) and len(name) > len(head) for name in wanted):
            prefix = head
            break
    shorter = [name[len(prefix) :] for name in wanted]
    words = [[word for word in re.split(r"[_/.\-]+", name) if word] for name in shorter]
    several = [set(each) for each in words if len(each) > 1]
    common = set.intersection(*several) if several else set()
    brief = ["_".join(word for word in each if word not in common) for each in words]
    if all(brief) and len(set(brief)) == len(set(shorter)):
        shorter = brief
    names = Names()
    found = []
    for name, kind, counts in zip(shorter, types, counted, strict=True):
        text = identifier(name, kind)
        found.append(names.give(text) if counts else text)
    return found


def _parameters(
    instances: Sequence[Instance], locals_: Sequence[str]
) -> tuple[dict[str, list[object]], dict[tuple[int, int], str]]:
    """The constructor arguments in which the occurrences differ, equal ones as one parameter."""
    rows = [instance.ops for instance in instances]
    first = instances[0]
    groups: dict[tuple, list[tuple[int, int]]] = defaultdict(list)
    for i, op in enumerate(rows[0]):
        for j in range(len(op.module.slots) if op.module else 0):
            vector = tuple(row[i].module.slots[j].value for row in rows)
            if len(set(vector)) > 1:
                kind = rows[0][i].module.slots[j].role
                groups[
                    vector, {"stride": "stride", "padding": "gap", "dilation": "gap"}.get(kind, "")
                ].append((i, j))
    names = Names()
    parameters: dict[str, list[object]] = {}
    of_slot: dict[tuple[int, int], str] = {}
    last = _last_weighted(first)
    outs = [places for (_, kind), places in groups.items() if not kind]
    for (vector, _), places in groups.items():
        name = names.give(_parameter_name(places, first, locals_, last, len(outs)))
        parameters[name] = list(vector)
        of_slot |= dict.fromkeys(places, name)
    return parameters, of_slot


def _parameter_name(
    places: Sequence[tuple[int, int]], first: Instance, locals_: Sequence[str], last: Op | None, many: int
) -> str:
    ops = first.ops
    slots: list[Slot] = [ops[i].module.slots[j] for i, j in places]
    roles = {slot.role for slot in slots}
    if not roles & {"inputs", "outputs"}:
        return "dilation" if "dilation" in roles else slots[0].role
    reads = any(
        slot.role == "inputs" and set(ops[i].reads) & set(first.inputs)
        for (i, _), slot in zip(places, slots, strict=True)
    )
    gives = any(slot.role == "outputs" and ops[i] is last for (i, _), slot in zip(places, slots, strict=True))
    if reads:
        return "channels" if gives else "inputs"
    if gives and many <= 3:
        return "outputs"
    if many <= 3:
        return "width"
    made = next(((i, s) for (i, _), s in zip(places, slots, strict=True) if s.role == "outputs"), None)
    return "n_" + re.sub(r"^conv_(?=\d)", "", locals_[made[0]]) if made else "inputs"


def _last_weighted(instance: Instance) -> Op | None:
    return next((op for op in reversed(instance.ops) if op.module and "Conv" in op.module.kind), None)


def _what_it_is(instance: Instance) -> tuple[str, str]:
    """A line that says what the block is, and a name for its class, both told by how it is made."""
    ops, inputs = instance.ops, instance.inputs
    kinds = [op.module.kind if op.module else op.types[0] for op in ops]
    kernels: list[Any] = [
        next(slot.value for slot in op.module.slots if slot.role == "kernel")
        for op in ops
        if op.module and "Conv" in op.module.kind
    ]
    tail = next(op for op in instance.lines[-1].ops if not op.follows)
    depthwise = any(map(_is_depthwise, ops))
    squeezes = "Sigmoid" in kinds and any("keepdim" in op.text for op in ops)
    se = "SE" if squeezes else ""
    if tail.types[0] in ("Eltwise", "Axpy") and "+" in tail.text:
        if depthwise:
            return (
                "An inverted residual: a depthwise convolution between two 1x1, plus the input.",
                "InvertedResidual",
            )
        shortcut = inputs[0] in tail.reads
        how = "plus the input" if shortcut else "plus a projection of the input"
        prefix = se + ("" if shortcut else "Projected")
        if sorted(kernels)[-1:] == [3] and kernels.count(1) >= 2:
            return f"A bottleneck: 1x1, 3x3 and 1x1 convolutions, {how}.", f"{prefix}Bottleneck"
        return f"A residual block: convolutions, {how}.", f"{prefix}ResidualBlock"
    if tail.types[0] == "Concat":
        if len(inputs) == 1 and inputs[0] in tail.reads:
            return "A dense layer: its input with new channels behind.", "DenseLayer"
        branches = len(tail.reads)
        if branches == 2 and kernels == [1, 1, 3]:
            return "A fire module: squeeze by 1x1, expand by 1x1 and 3x3.", "Fire"
        if len(inputs) == 1:
            return f"{branches} branches on one input, joined along the channels.", f"{se}Inception"
        return "Two maps joined, then convolutions.", "Join"
    if depthwise and kernels[0] == 1:
        return "Convolutions: 1x1 to more channels, depthwise, 1x1 back.", "InvertedBottleneck"
    if depthwise:
        return "A depthwise convolution, then one of 1x1.", "SeparableConv"
    return "A block that the net repeats.", "Block"
