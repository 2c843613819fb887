"""The rooms import only what DESIGN lets them, and no prototxt field is missing from the schema's text."""

import ast
import re
import sys
from pathlib import Path

import pytest

from prototxt import caffe_pb2

ROOT = Path(__file__).parents[1]
ROOMS = ("prototxt", "weights", "runtime", "reference", "port", "parity_tests")
MAY_NOT = {
    "prototxt": {"numpy", "torch", "weights", "runtime", "reference", "port", "parity_tests"},
    "weights": {"runtime", "reference", "port", "parity_tests"},
    "runtime": {"torch", "reference", "port", "parity_tests"},
    "reference": {"torch", "port", "parity_tests"},
    "port": {"reference", "parity_tests"},
    "parity_tests": set(),
}


@pytest.mark.parametrize("room", ROOMS)
def test_imports(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        if room == "weights" and path.name == "tensors.py":
            continue  # .pth files are torch's own: imported there, inside the functions
        forbidden = _imported(path) & MAY_NOT[room]
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


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
