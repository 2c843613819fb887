"""The rooms import only what DESIGN lets them, and no prototxt field is missing from the schema's text."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

from prototxt import caffe_pb2
from prototxt.layers.declare import LAYER_TYPES

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "prototxt": set(),
    "weights": {"prototxt"},
    "runtime": {"prototxt", "weights"},
    "reference": {"prototxt", "weights", "runtime"},
    "port": {"prototxt", "weights", "runtime"},
    "parity_tests": {"prototxt", "weights", "runtime", "reference", "port"},
}
"""Room → the other rooms that it may import."""

LIBRARIES = {
    "prototxt": {"numpy", "torch"},
    "runtime": {"torch"},
    "reference": {"torch"},
    "weights": {"torch"},
}
"""Room → libraries that it does without."""

EXCEPT = {
    ("weights/tensors.py", "torch"),  # .pth files are torch's own: imported inside the functions
    ("port/cli.py", "parity_tests.compare.command"),  # two commands live there, loaded when they are called
    ("port/cli.py", "parity_tests.bench.command"),
}

NO_FAMILY = {
    "prototxt": {"declare", "windows", "memory", "planned", "python"},
    "reference": set(),
    "port": {"python"},
}
"""Room → files of its `layers/` that are no family of layers: what families share, Python layers, which the reference
runs as they are, and types that no engine runs."""


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports(room: str) -> None:
    forbidden = (MAY_IMPORT.keys() - MAY_IMPORT[room] - {room}) | LIBRARIES.get(room, set())
    wrong = [
        f"{where} imports {module}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for where in [path.relative_to(ROOT).as_posix()]
        for module in sorted(imported(path.read_text(encoding="utf-8")))
        if module.split(".")[0] in forbidden and (where, module) not in EXCEPT
    ]
    assert not wrong


@pytest.mark.parametrize("room", ["port", "weights"])
def test_public_names_are_there(room: str) -> None:
    """They load when they are first used; what a type checker reads and what is loaded are the same."""
    module = importlib.import_module(room)
    tree = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert typed == module._HOMES and sorted(typed) == sorted(module.__all__)
    for name, home in typed.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="nothing"):
        module.nothing  # noqa: B018


def test_rooms_have_the_same_families_of_layers() -> None:
    """A layer type is declared, and computed twice, under one file name; each room's list imports them all."""
    families = {
        room: {path.stem for path in (ROOT / room / "layers").glob("*.py")} - others - {"__init__"}
        for room, others in NO_FAMILY.items()
    }
    assert families["reference"] == families["prototxt"], "reference/layers, prototxt/layers"
    assert families["port"] == families["prototxt"], "port/layers, prototxt/layers"
    for room, names in families.items():
        listed = imported_names((ROOT / room / "layers" / "__init__.py").read_text(encoding="utf-8"))
        assert names <= listed, f"{room}/layers/__init__.py does not import {', '.join(names - listed)}"


@pytest.mark.parametrize("engine", ["reference", "port"])
def test_a_type_is_computed_under_the_name_it_is_declared_under(engine: str) -> None:
    layers = importlib.import_module(f"{engine}.layer").LAYERS
    importlib.import_module(f"{engine}.layers")
    assert set(layers) <= set(LAYER_TYPES), "computed, and not declared"
    for family in (ROOT / "prototxt" / "layers").glob("*.py"):
        tree = ast.parse(family.read_text(encoding="utf-8"))
        for name in declared_types(tree) & set(layers):
            assert layers[name].__module__ == f"{engine}.layers.{family.stem}", name


def declared_types(tree: ast.AST) -> set[str]:
    """The types that a family's file declares, by `layer_type("A", "B", …)` or `opened_type(…)`."""
    return {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node.func) in ("layer_type", "opened_type")
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }


def imported_names(text: str) -> set[str]:
    """The names that `import` statements bind."""
    return {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


_MODULE = re.compile(rf"(?:{'|'.join(MAY_IMPORT)})(?:\.\w+)+")


def imported(text: str) -> set[str]:
    """The modules that a file imports, by statement or by a string.

    A string counts where it is given to `import_module` or `__import__` (of an f-string, how it begins), and where
    it has the form of a room's module: `room.module` or `room.module:function`.
    """
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif (
            isinstance(node, ast.Call) and node.args and _called(node.func) in ("import_module", "__import__")
        ):
            names.add(_beginning(node.args[0]))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, _, function = node.value.partition(":")
            if _MODULE.fullmatch(module) and (not function or function.isidentifier()):
                names.add(module)
    return names


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _beginning(argument: ast.expr) -> str:
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("import reference.layers as r", "reference.layers"),
        ("def f():\n    from reference import Net", "reference"),
        ("importlib.import_module('torch')", "torch"),
        ("import_module(f'reference.{name}')", "reference."),
        ("__import__('reference')", "reference"),
        ("ENGINES = {'a': 'reference.pycaffe'}", "reference.pycaffe"),
        ("COMMANDS = {'a': ('parity_tests.bench.command:bench_command', '')}", "parity_tests.bench.command"),
    ],
)
def test_imports_are_found(text: str, module: str) -> None:
    assert imported(text) == {module}


def test_port_shadows_no_standard_module() -> None:
    """`python port/train_caffe_equiv.py` and `python weights/convert.py` put their folder first on the path."""
    for room in ("port", "weights"):
        names = {path.stem for path in (ROOT / room).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert not names & sys.stdlib_module_names


def test_generated_schema_is_the_schema() -> None:
    """caffe_pb2.py holds what caffe.proto says. To generate it and its types anew (grpcio-tools 1.74):

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. prototxt/caffe.proto
    """
    text = re.sub(r"//[^\n]*", "", (ROOT / "prototxt" / "caffe.proto").read_text())
    messages = dict(re.findall(r"^message (\w+) \{(.*?)^\}", text, re.S | re.M))
    assert set(messages) == set(caffe_pb2.DESCRIPTOR.message_types_by_name)
    for name, body in messages.items():
        fields = re.findall(r"(optional|required|repeated) ([\w.]+) (\w+) = (\d+)", body)
        descriptor = caffe_pb2.DESCRIPTOR.message_types_by_name[name]
        assert {(field, int(number)) for _, _, field, number in fields} == {
            (field.name, field.number)
            for message in (descriptor, *descriptor.nested_types)
            for field in message.fields
        }
        for label, kind, field, _ in fields:
            found = next(
                message.fields_by_name[field]
                for message in (*descriptor.nested_types, descriptor)
                if field in message.fields_by_name
            )
            assert found.is_repeated == (label == "repeated")
            of = found.message_type or found.enum_type
            assert of is None or of.name == kind.split(".")[-1]
        for value, number in re.findall(r"\b([A-Z][A-Z0-9_]*) = (\d+);", body):
            numbers = {v.number for e in descriptor.enum_types for v in e.values if v.name == value}
            assert int(number) in numbers


@pytest.mark.parametrize(
    ("message", "last"),
    [
        ("LayerParameter", 149),
        ("V1LayerParameter", 42),
        ("TransformationParameter", 12),
        ("NetParameter", 100),
    ],
)
def test_fork_fields_have_numbers_of_no_fork(message: str, last: int) -> None:
    """A fork's .caffemodel holds its fields under numbers that mean other things elsewhere: none is known here.

    But for OAA's (149; 8 to 12), which its own snapshots need.
    """
    older = {"param": 1001, "blob_share_mode": 1002} if message == "V1LayerParameter" else {}
    for field in caffe_pb2.DESCRIPTOR.message_types_by_name[message].fields:
        assert field.number <= last or field.number > 5000 or older.get(field.name) == field.number
