"""The text of `model.py`."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from port.translate.blocks import WIDTH, Block, Instance, Line, lines_of, with_blocks
from port.translate.graph import Graph
from port.translate.names import Names, common_prefix, identifier
from port.translate.ops import Module, Slot, Value
from port.translate.rules import RULES, used_rules


@dataclass
class Written:
    """A model as text.

    Attributes:
        text: of `model.py`.
        watched: the same, with each operation's result handed to `_seen`.
        order: the values in the order in which `_seen` gets them.
        state: key of the state dict → its value, of the net's blobs.
        places: Caffe's layer → the module that holds its weights.
    """

    text: str
    watched: str
    order: list[tuple[Value, ...]]
    state: dict[str, np.ndarray]
    places: dict[str, str]


@dataclass
class Header:
    """What `model.py` says beside the net."""

    title: str
    class_name: str
    summary: str
    constants: Mapping[str, object] = field(default_factory=dict)


def write_model(graph: Graph, header: Header, blobs: Mapping[int, Sequence[np.ndarray]]) -> Written:
    """The model's text.

    Args:
        blobs: by layer index, the weights.
    """
    lines = lines_of(graph)
    items, blocks = with_blocks(lines, set(graph.outputs.values()))
    writer = _Writer(graph, header, items, blocks)
    return Written(
        writer.text(),
        writer.text(watched=True),
        [tuple(op.makes) for item in items for op in item.ops],
        writer.state(blobs),
        writer.places,
    )


class _Writer:
    def __init__(self, graph: Graph, header: Header, items: list[Line | Instance], blocks: list[Block]):
        self.graph, self.header, self.items, self.blocks = graph, header, items, blocks
        kinds = [f"{op.module.kind}(" for op in graph.ops if op.module]
        self.rules = used_rules([*(op.text for op in graph.ops), *kinds])
        names = Names(set(self.rules))
        self.functions = set(names.taken)
        self.inputs = {value: names.give(identifier(name)) for name, value in graph.inputs.items()}
        self.batch = next((value.shape[0] for value in graph.inputs.values() if value.shape), None)
        self.modules: dict[Module, str] = {}
        self.instances: dict[Instance, str] = {}
        self.places: dict[str, str] = {}
        self._name_modules()

    # ---- names

    def _name_modules(self) -> None:
        names = Names()
        for item in self.items:
            if isinstance(item, Instance):
                self.instances[item] = name = names.give(_instance_name(item))
                for op, local in zip(item.ops, item.block.modules, strict=True):
                    if op.module:
                        self._place(op.module, f"{name}.{local}")
                continue
            for op in item.ops:
                if op.module and op.module not in self.modules:
                    layer = op.module.layers[0]
                    self.modules[op.module] = name = names.give(identifier(layer.name, layer.type))
                    self._place(op.module, name)

    def _place(self, module: Module, path: str) -> None:
        for layer in module.layers:
            if layer.params:
                self.places[layer.name] = path

    # ---- the file

    def text(self, watched: bool = False) -> str:
        main = self._model(watched)
        classes = [self._block(block, watched) for block in self.blocks]
        parts = [*(RULES[name] for name in self.rules), *classes, main]
        head = [f'"""{self.header.title}"""', "", *self._imports("\n".join(parts))]
        constants = [line for name, value in self.header.constants.items() for line in _constant(name, value)]
        if constants:
            head += ["", *constants]
        return "\n".join([*head, ""]) + "".join(f"\n\n{part}\n" for part in parts)

    def _imports(self, body: str) -> list[str]:
        lines = []
        if re.search(r"\btorch\.", body):
            lines.append("import torch")
        if re.search(r"\bF\.", body):
            lines.append("import torch.nn.functional as F")
        return [*lines, "from torch import Tensor, nn"]

    def _block(self, block: Block, watched: bool) -> str:
        first = block.instances[0]
        fixed = {name: _default(name, values) for name, values in block.parameters.items()}
        order = sorted(block.parameters, key=lambda name: fixed[name] is not None)
        arguments = ["self"]
        for name in order:
            values = block.parameters[name]
            kind = "int" if all(isinstance(value, int) for value in values) else "int | tuple[int, ...]"
            default = "" if fixed[name] is None else f" = {fixed[name]}"
            arguments.append(f"{name}: {kind}{default}")
        made = []
        for i, (op, local) in enumerate(zip(first.ops, block.modules, strict=True)):
            if op.module:
                slots = [
                    (slot, block.of_slot.get((i, j)) or repr(slot.value))
                    for j, slot in enumerate(op.module.slots)
                ]
                made += _statement(f"self.{local} = ", _call(op.module.kind, slots), 8)
        numbers = {op: i for i, op in enumerate(first.ops)}
        names = Names(self.functions)
        values = {v: names.give(n) for v, n in zip(first.inputs, ("x", "y"), strict=False)}
        wanted = {line.makes[0]: block.values[numbers[line.ops[-1]]] for line in first.lines}
        modules = {op.module: block.modules[numbers[op]] for op in first.ops if op.module}
        body = self._body(
            first.lines, values, wanted, names, modules, [first.output], watched, comments=False
        )
        given = ", ".join(f"{values[value]}: Tensor" for value in first.inputs)
        return "\n".join(
            [
                f"class {block.name}(nn.Module):",
                f'    """{block.title}"""',
                "",
                *_signature("__init__", arguments, ""),
                "        super().__init__()",
                *made,
                "",
                f"    def forward(self, {given}) -> Tensor:",
                *body,
            ]
        )

    def _model(self, watched: bool) -> str:
        made: list[str] = []
        done: set[Module] = set()
        for item in self.items:
            if isinstance(item, Instance):
                made += _statement(f"self.{self.instances[item]} = ", _instance_call(item), 8)
                continue
            for op in item.ops:
                if op.module and op.module not in done:
                    done.add(op.module)
                    call = _call(op.module.kind, [(slot, repr(slot.value)) for slot in op.module.slots])
                    made += _statement(f"self.{self.modules[op.module]} = ", call, 8)
        made += self._frozen()
        names = Names({*self.functions, *self.inputs.values()})
        outputs = self.graph.outputs
        body = self._body(
            self.items,
            dict(self.inputs),
            {},
            names,
            self.modules,
            list(outputs.values()),
            watched,
            comments=True,
        )
        kind = "Tensor" if len(outputs) == 1 else "dict[str, Tensor]"
        arguments = ["self", *(f"{name}: Tensor" for name in self.inputs.values())]
        init = ["    def __init__(self) -> None:", "        super().__init__()", *made, ""] if made else []
        return "\n".join(
            [
                f"class {self.header.class_name}(nn.Module):",
                f'    """{self.header.summary}"""',
                "",
                *init,
                *_signature("forward", arguments, f" -> {kind}"),
                *body,
            ]
        )

    def _frozen(self) -> list[str]:
        """Statements that keep from learning what the prototxt gives a learning rate of 0."""
        paths = self._paths()
        frozen = {module: path for module, path in paths if _learned(module) == set(module.frozen) != set()}
        lines = []
        for kind in dict.fromkeys(module.kind for module in frozen):
            if sum(module.kind == kind for module in frozen) > 3 and all(
                module in frozen for module, _ in paths if module.kind == kind and _learned(module)
            ):
                frozen = {module: path for module, path in frozen.items() if module.kind != kind}
                lines += [
                    "        for layer in self.modules():",
                    f"            if isinstance(layer, {kind}):",
                    "                layer.requires_grad_(False)  # lr_mult: 0",
                ]
        whole = list(frozen.values())
        single = [f"{path}.{name}" for m, path in paths for name in m.frozen if _learned(m) != set(m.frozen)]
        for names, get in ((whole, "get_submodule"), (single, "get_parameter")):
            if names:
                line = f"        for name in {_quoted(names)}:"
                many = ["        for name in (", *(f'            "{name}",' for name in names), "        ):"]
                lines += [line] if len(line) <= WIDTH else many
                lines.append(f"            self.{get}(name).requires_grad_(False)  # lr_mult: 0")
        return lines

    def _paths(self) -> list[tuple[Module, str]]:
        """Each module with its path in the model."""
        found: dict[Module, str] = {}
        for item in self.items:
            if isinstance(item, Instance):
                for op, local in zip(item.ops, item.block.modules, strict=True):
                    if op.module:
                        found[op.module] = f"{self.instances[item]}.{local}"
            else:
                found |= {op.module: self.modules[op.module] for op in item.ops if op.module}
        return list(found.items())

    def state(self, blobs: Mapping[int, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
        state = {}
        for module, path in self._paths():
            own = [blobs[layer.index] for layer in module.layers]
            for name, take in module.state.items():
                state[f"{path}.{name}"] = np.ascontiguousarray(take(own), np.float32)
        return state

    # ---- statements

    def _body(
        self,
        items: "Sequence[Item]",
        known: dict[Value, str],
        wanted: Mapping[Value, str],
        names: Names,
        modules: Mapping[Module, str],
        outputs: Sequence[Value],
        watched: bool,
        comments: bool,
    ) -> list[str]:
        """The statements of a `forward`, its return included."""
        items = _joined(items, outputs)
        body: list[str] = []
        last_use: dict[Value, int] = {}
        for i, item in enumerate(items):
            last_use |= dict.fromkeys(_reads(item), i)
        last_use |= dict.fromkeys(outputs, len(items))
        for i, item in enumerate(items):
            makes = _makes(item)
            expression = self._value_of(item, known, modules, watched)
            brief = self._brief_name(i, makes, known, last_use, outputs)
            if brief:
                known[makes[0]] = brief
            else:
                for value in makes:
                    known.setdefault(value, names.give(wanted.get(value) or identifier(value.blob)))
            comment = self._comment(makes) if comments else ""
            if i == len(items) - 1 and len(outputs) == 1 and makes == list(outputs):
                return [*body, *_statement("return ", expression, 8, comment)]
            body += _statement(f"{', '.join(known[value] for value in makes)} = ", expression, 8, comment)
        if len(outputs) == 1:
            return [*body, f"        return {known[outputs[0]]}"]
        entries = [f"{_quoted(name)}: {known[value]}" for name, value in self.graph.outputs.items()]
        return [*body, *_statement("return ", "{" + ", ".join(entries) + "}", 8)]

    def _value_of(
        self, item: "Item", known: Mapping[Value, str], modules: Mapping[Module, str], watched: bool
    ) -> str:
        """The expression of one statement."""
        if isinstance(item, Instance):
            return f"self.{self.instances[item]}({', '.join(known[value] for value in item.inputs)})"
        if isinstance(item, Joined):
            inner = self._value_of(item.first, known, modules, watched)
            return _expression(item.line, {**known, item.first.output: inner}, modules, watched)
        return _expression(item, known, modules, watched)

    def _brief_name(
        self,
        i: int,
        makes: Sequence[Value],
        known: Mapping[Value, str],
        last_use: Mapping[Value, int],
        outputs: Sequence[Value],
    ) -> str | None:
        """ "x" or "y", if statement `i` makes what only the next one reads and one of them is free."""
        if len(makes) != 1 or last_use.get(makes[0], i) > i + 1 or (len(outputs) > 1 and makes[0] in outputs):
            return None
        busy = {name for value, name in known.items() if last_use.get(value, -1) > i}
        return next((name for name in ("x", "y") if name not in busy), None)

    def _comment(self, makes: Sequence[Value]) -> str:
        return "  # " + ", ".join(self._shape(value) for value in makes[:1])

    def _shape(self, value: Value) -> str:
        sizes = list(map(str, value.shape))
        if len(sizes) > 1 and value.shape[0] == self.batch:
            sizes[0] = "N"
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _learned(module: Module) -> set[str]:
    return {name for name in module.state if not name.startswith("running_")}


@dataclass(eq=False)
class Joined:
    """A block's result and the sum that alone reads it, as one statement: `x = x + self.block(x)`."""

    first: Instance
    line: Line


Item = Line | Instance | Joined


def _joined(items: Sequence[Item], outputs: Sequence[Value]) -> list[Item]:
    found: list[Item] = []
    for item in items:
        before = found[-1] if found else None
        if (
            isinstance(before, Instance)
            and isinstance(item, Line)
            and item.ops[0].infix
            and item.reads.count(before.output) == 1
            and before.output.users == [item.ops[0]]
            and before.output not in outputs
        ):
            found[-1] = Joined(before, item)
        else:
            found.append(item)
    return found


def _reads(item: Item) -> list[Value]:
    if isinstance(item, Joined):
        return [*item.first.inputs, *(value for value in item.line.reads if value is not item.first.output)]
    return item.inputs if isinstance(item, Instance) else item.reads


def _makes(item: Item) -> list[Value]:
    if isinstance(item, Joined):
        return item.line.makes
    return [item.output] if isinstance(item, Instance) else item.makes


def _expression(line: Line, known: Mapping[Value, str], modules: Mapping[Module, str], watched: bool) -> str:
    text, infix = "", False
    for op in line.ops:
        inner = f"({text})" if infix and not re.search(r"\({0}[,)]", op.text) else text
        arguments = [inner] if text else [known[value] for value in op.reads]
        module = f"self.{modules[op.module]}" if op.module else ""
        text = op.text.format(*arguments, m=module)
        if watched:
            text = f"_seen({text})"
        infix = op.infix and not watched
    return text


def _instance_name(instance: Instance) -> str:
    """What the names of its layers start with, or the words that all of them have, or its result's name."""
    layers = [layer.name for op in instance.ops if op.module for layer in op.layers]
    if not layers:
        return identifier(instance.output.blob, "Block")
    prefix = common_prefix(layers)
    words = [word for word in layers[0].split("_") if all(word in name.split("_") for name in layers)]
    name = prefix if len(prefix) > 1 else "_".join(words)
    return identifier(name if any(map(str.isdigit, name)) else instance.output.blob, "Block")


def _instance_call(instance: Instance) -> str:
    block = instance.block
    fixed = {name: _default(name, values) for name, values in block.parameters.items()}
    given = []
    for name in sorted(block.parameters, key=lambda name: fixed[name] is not None):
        value = block.parameters[name][instance.number]
        if fixed[name] is None:
            given.append(repr(value))
        elif value != fixed[name]:
            given.append(f"{name}={value!r}")
    return f"{block.name}({', '.join(given)})"


def _default(name: str, values: Sequence[object]) -> object:
    """The usual value of a parameter that most often has it; None: each call gives its own."""
    usual = {"stride": 1, "padding": 0, "dilation": 1}.get(name.rstrip("_0123456789"))
    return usual if usual in values else None


def _call(kind: str, slots: Sequence[tuple[Slot, str]]) -> str:
    written = [
        f"{slot.keyword}={text}" if slot.keyword else text
        for slot, text in slots
        if slot.default is None or text != repr(slot.default)
    ]
    return f"{kind}({', '.join(written)})"


def _signature(name: str, arguments: Sequence[str], result: str) -> list[str]:
    line = f"    def {name}({', '.join(arguments)}){result}:"
    if len(line) <= WIDTH:
        return [line]
    return [f"    def {name}(", *(f"        {argument}," for argument in arguments), f"    ){result}:"]


def _statement(start: str, expression: str, indent: int, comment: str = "") -> list[str]:
    """One statement; if it is too long, without its comment, or with its arguments on lines of their own."""
    line = " " * indent + start + expression
    if len(line + comment) <= WIDTH:
        return [line + comment]
    if len(line) <= WIDTH:
        return [line]
    return _exploded(" " * indent + start, expression, indent, "")


def _exploded(start: str, expression: str, indent: int, end: str) -> list[str]:
    """An expression of a call, a list or a dict, one part on each line."""
    opening = re.match(r'(?:"[^"]*": )?[\w.]*[(\[{]', expression)
    if not opening or _closing(expression, opening.end() - 1) != len(expression) - 1:
        return [start + expression + end]
    lines = [start + opening.group()]
    for part in _parts(expression[opening.end() : -1]):
        inner = " " * (indent + 4)
        if len(inner + part) + 1 <= WIDTH:
            lines.append(f"{inner}{part},")
        else:
            lines += _exploded(inner, part, indent + 4, ",")
    return [*lines, " " * indent + expression[-1] + end]


def _closing(text: str, start: int) -> int:
    """Where the bracket at `start` is closed."""
    return next((i for i, depth in _depths(text) if i > start and depth == 0), -1)


def _parts(text: str) -> list[str]:
    """What commas outside of brackets and strings part."""
    cuts = [i for i, depth in _depths(text) if depth == 0 and text[i] == ","]
    pieces = [text[a + 1 : b] for a, b in zip([-1, *cuts], [*cuts, len(text)], strict=True)]
    return [piece.strip() for piece in pieces if piece.strip()]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """(place, how many brackets are open behind it) of what is not inside a string."""
    depth, quoted = 0, False
    for i, letter in enumerate(text):
        if letter == '"' and text[i - 1 : i] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (letter in "([{") - (letter in ")]}")
            yield i, depth


def _constant(name: str, value: object) -> list[str]:
    kind = ": dict[str, object]" if isinstance(value, dict) else ""
    return _statement(f"{name}{kind} = ", _quoted(value), 0)


def _quoted(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        inner = ", ".join(map(_quoted, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(k)}: {_quoted(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)
