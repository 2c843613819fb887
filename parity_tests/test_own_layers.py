"""Layer types of the user's own: docs/own_layers.md as printed, and what is refused."""

import copy
import pickle
import random
import re
import shlex
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from typer.testing import CliRunner

import prototxt.own
from port import CaffeNet, cli
from port.layer import LAYERS
from port.layers import Declared, FillerParameter, Layer, Weight, register, use_proto
from port.report.summary import summarise
from prototxt import caffe_pb2, parse_net
from prototxt.errors import InputError
from prototxt.layers.declare import LAYER_TYPES
from prototxt.own import OWN_FIELDS
from prototxt.proto_file import parse_proto, read_proto
from prototxt.text import message_text
from reference.layer import LAYERS as REFERENCE_LAYERS
from reference.pycaffe import Net as ReferenceNet
from runtime.rng import set_random_seed
from weights import read_weights

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own_layers.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`(\w+\.\w+)`[^`]*?\n\n```\w+\n(.*?)```", PAGE, re.S))
COMMANDS = re.findall(r"^    seenet (.+)$", PAGE, re.M)


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Forget what a test registers."""
    tables = (LAYERS, REFERENCE_LAYERS, LAYER_TYPES, OWN_FIELDS, prototxt.own._plain)
    before, modules, path = [dict(table) for table in tables], set(sys.modules), list(sys.path)
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)
    prototxt.own._schema = None
    for name in set(sys.modules) - modules:
        if name.startswith("channel_swish"):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that holds the page's files."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- The page


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line: str, folder: Path) -> None:
    ran = CliRunner().invoke(cli.app, shlex.split(line))
    assert ran.exit_code == 0, (ran.output, ran.exception)
    if line.startswith("summary"):
        assert "ChannelSwish" in ran.stdout and "389" in ran.stdout
    elif line.startswith("survey"):
        assert "a forward pass was made" in ran.stdout
    elif line.startswith("train"):
        beta = next(x for x in read_weights(folder / "channel_swish_iter_5.caffemodel") if x.name == "act")
        assert beta.blobs[0].shape == (3,) and not np.allclose(beta.blobs[0], 1.5), "β must have learned"
        saved = caffe_pb2.NetParameter.FromString((folder / "channel_swish_iter_5.caffemodel").read_bytes())
        assert [layer.name for layer in saved.layer][1] == "act" and not saved.layer[1].unknown
    else:
        assert line.startswith("parity") and "inherited" not in ran.stdout.split("Compared")[0]


def test_the_page_has_each_command() -> None:
    assert [line.split()[0] for line in COMMANDS] == ["summary", "survey", "train", "parity"]
    assert len(FILES) == 6


def test_in_python(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    (code,) = re.findall(r"```python\n(import port\n.*?)```", PAGE, re.S)
    made: dict = {}
    exec(code, made)
    check_numbers(made["net"], 1.5)


def test_plain_fields_are_as_the_schema(folder: Path) -> None:
    (plain,) = re.findall(r"^register\(\"ChannelSwish\", (fields={.*})\)$", PAGE, re.M)
    text = (folder / "channel_swish.py").read_text()
    text = text.replace('fields=["channel_swish_param"]', plain).replace(
        "InputError,", "FillerParameter, InputError,"
    )
    (folder / "channel_swish.py").write_text(text)
    check_numbers(CaffeNet(folder / "channel_swish.prototxt", allow_modules=["channel_swish.py"]), 1.5)


def check_numbers(net: CaffeNet, beta: float) -> None:
    """The layer's values and gradients, by hand and by differences."""
    x = torch.linspace(-4, 8, 2 * 3 * 64, dtype=torch.float64).view(2, 3, 8, 8)
    act = net.named_layers()["act"].double()
    weight = act.blobs[0]
    assert torch.equal(weight.detach(), torch.full((3,), beta, dtype=torch.float64))
    found = act(x)
    torch.testing.assert_close(found, (x * torch.sigmoid(beta * x)).clamp(max=6))
    assert torch.autograd.gradcheck(lambda y: act(y), (x[:1, :, :2, :2].clone().requires_grad_(),))
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    due = (x**2 * torch.sigmoid(beta * x) * torch.sigmoid(-beta * x)) * (x * torch.sigmoid(beta * x) < 6)
    torch.testing.assert_close(gradient, due.sum((0, 2, 3)))


def test_the_reference_needs_a_class(folder: Path) -> None:
    use_proto("channel_swish.proto")
    CaffeNet("channel_swish.prototxt", allow_modules=["channel_swish.py"])
    with pytest.raises(InputError, match=r'prototxt:3: layer "act": ChannelSwish .* NumPy class'):
        ReferenceNet("channel_swish.prototxt", 1)


def test_saving_and_copying(folder: Path) -> None:
    use_proto("channel_swish.proto")
    net = CaffeNet("channel_swish.prototxt", allow_modules=["channel_swish.py"])
    again = copy.deepcopy(net)
    assert pickle.loads(pickle.dumps(net.named_layers()["act"].param)).channel_swish_param.limit == 6
    x = torch.ones(2, 3, 8, 8)
    assert torch.equal(net(x)["fc"], again(x)["fc"])
    net.save("net.caffemodel")
    assert again.load_weights("net.caffemodel") == []


# ---- Errors: one line, with the place

ONE = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{
  name: "own" type: "{type}" bottom: "data" top: "out" {more}
}}
"""


def one(more: str = "", layer_type: str = "Own", tops: int = 1) -> caffe_pb2.NetParameter:
    """A net with one layer of a registered type, read after it was registered."""
    return parse_net(ONE.format(type=layer_type, more=more + ' top: "more"' * (tops - 1)), "net.prototxt")


def double(**registering: object) -> type[Layer]:
    """Register a type that doubles its bottom, times `own_param.by` if it claims that."""

    @register("Own", **registering)
    class Own(Layer):
        @staticmethod
        def declare(param, shapes, tops):
            return Declared([shapes[0]])

        def forward(self, x):
            return x * 2 * (self.param.own_param.by if OWN_FIELDS["Own"] else 1)

    return Own


def result(net: caffe_pb2.NetParameter) -> float:
    return CaffeNet(net)(torch.ones(2, 3))["out"][0, 0].item()


def test_plain_fields() -> None:
    class Mode(IntEnum):
        SUM = 1
        MAX = 2

    seen = []

    @register(
        "Own",
        fields={
            "own_param": {
                "by": 3.0,
                "mode": Mode.MAX,
                "on": False,
                "many": [int],
                "inner": {"name": "x"},
                "filler": FillerParameter,
            },
            "own_number": 7,
        },
    )
    class Own(Layer):
        @staticmethod
        def declare(param, shapes, tops):
            own = param.own_param
            seen.append((own.by, own.mode, own.on, list(own.many), own.inner.name, param.own_number))
            seen.append((param.HasField("own_param"), param.name, own.filler.type))
            return Declared([shapes[0]], [Weight((1,), own.filler)])

        def forward(self, x):
            return x * self.weight

    text = """own_param {  # its settings
        by: 0.1 mode: SUM on: true many: 1 many: [2, -3] inner { name: "a  b # c" }
        filler { type: "constant" value: 4 } } own_number: -2"""
    assert result(one(text)) == 4
    assert seen[0] == (np.float32(0.1), Mode.SUM, True, [1, 2, -3], "a  b # c", -2)
    assert seen[1] == (True, "own", "constant")
    seen.clear()
    assert result(one()) == 0
    assert seen[0] == (3, Mode.MAX, False, [], "x", 7) and seen[1][0] is False


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("own_param { bye: 1 }", r'own_param \(line 4\): .*no field named "bye"'),
        ("own_param { by: foo }", r"own_param \(line 4\): .*foo"),
        ("own_parm { by: 1 }", r'no field named "own_parm", but own_param \(line 4\)'),
        ("convolution_param { foo: 1 }", r'no field named "convolution_param.foo" \(line 4\)'),
    ],
)
def test_fields_that_the_class_does_not_have(text: str, told: str) -> None:
    double(fields={"own_param": {"by": 1.0}})
    with pytest.raises(InputError, match=rf'^net.prototxt: layer "own": .*{told}') as refused:
        CaffeNet(one(text), where="net.prototxt")
    assert "\n" not in str(refused.value)


def test_a_type_is_registered_once() -> None:
    first = double()
    assert double() is not first, "a cell of a notebook may run again"

    with pytest.raises(InputError, match=r"Own is registered twice: by .*double.* and by .*Other"):
        register("Own")(type("Other", (first,), {}))

    with pytest.raises(InputError, match=r"ReLU is built in: register it with replaces=True"):
        register("ReLU")(first)


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (torch.nn.ReLU, "is no layer: derive it from port.layers.Layer"),
        (type("Bare", (Layer,), {}), r"Bare has no declare\(param, shapes, tops\)"),
    ],
)
def test_what_is_no_class_for_a_layer(cls: type, told: str) -> None:
    with pytest.raises(InputError, match=told):
        register("Own")(cls)


def test_fields_of_no_kind() -> None:
    with pytest.raises(InputError, match="the default of by is a NoneType"):
        double(fields={"own_param": {"by": None}})


@pytest.mark.parametrize(
    ("made", "forward", "told"),
    [
        (lambda shape: Declared([shape, shape]), None, r"Own makes 2 tops, not 1"),
        (lambda shape: Declared([]), None, r"Own makes 0 tops, not 1"),
        (lambda shape: [shape], None, r"declare must give a Declared, not \[\(2, 3\)\]"),
        (lambda shape: Declared([(3,)]), lambda x: x, r"forward gives tops of shape 2×3; it declares 3$"),
        (lambda shape: Declared([shape]), lambda x: (x, x), r"tops of shape 2×3, 2×3; it declares 2×3$"),
    ],
)
def test_tops_as_declared(made, forward, told: str) -> None:
    members = {"declare": staticmethod(lambda param, shapes, tops: made(shapes[0]))}
    if forward:
        members["forward"] = lambda self, x: forward(x)
    register("Own")(type("Own", (Layer,), members))
    with pytest.raises(InputError, match=rf'layer "own": .*{told}'):
        CaffeNet(one())(torch.ones(2, 3))


def test_a_filler_of_the_forks(tmp_path: Path) -> None:
    """What a fork's filler has and no filler here is refused; what both have is drawn as ever."""
    (tmp_path / "fork.proto").write_text(
        "message FillerParameter { optional string type = 1; optional float min = 3; optional int32 odd = 99; }"
        "message LayerParameter { optional FillerParameter own_filler = 200; }"
    )
    use_proto(tmp_path / "fork.proto")

    @register("Own", fields=["own_filler"])
    class Own(Layer):
        @staticmethod
        def declare(param, shapes, tops):
            return Declared([shapes[0]], [Weight((2, 3), param.own_filler)])

        def forward(self, x):
            return x * self.weight

    set_random_seed(3)
    own = CaffeNet(one('own_filler { type: "uniform" min: -1 }')).layers[1].blobs[0]
    set_random_seed(3)
    due = (
        CaffeNet(
            parse_net(
                ONE.format(
                    type="InnerProduct",
                    more='inner_product_param { num_output: 2 weight_filler { type: "uniform" min: -1 } }',
                )
            )
        )
        .layers[1]
        .blobs[0]
    )
    assert torch.equal(own, due)
    with pytest.raises(InputError, match=r"the filler .*odd"):
        CaffeNet(one("own_filler { odd: 1 }"))


def test_collisions_are_read_by_name(tmp_path: Path) -> None:
    """A field that this suite knows otherwise, by name or by number, is the registered type's own."""
    (tmp_path / "fork.proto").write_text(
        """
        message InterpParameter { optional string height = 1; optional float by = 2 [default = 1]; }
        message LayerParameter {
          optional InterpParameter interp_param = 106;  // convolution_param's number
          repeated float relu_param = 1;
        }
        """
    )
    use_proto(tmp_path / "fork.proto")
    seen = []

    @register("Own", fields=("interp_param", "relu_param"))
    class Own(Layer):
        @staticmethod
        def declare(param, shapes, tops):
            seen.append((param.interp_param.height, list(param.relu_param)))
            return Declared([shapes[0]])

        def forward(self, x):
            return x * self.param.interp_param.by

    net = one('interp_param { height: "tall" by: 2 } relu_param: 1 relu_param: 2.5')
    assert result(net) == 2 and seen == [("tall", [1, 2.5])] * len(seen)
    assert 'interp_param: { height: "tall" by: 2 }' in message_text(net)
    other = one("interp_param { height: 5 width: 6 }", "Interp").layer[1]
    assert (other.interp_param.height, other.interp_param.width) == (5, 6), "of other types it is as ever"


def test_a_net_that_was_read_too_early() -> None:
    net = one("relu_param { negative_slope: 1 by: 2 }")
    double(fields={"relu_param": {"by": 1.0}})
    with pytest.raises(InputError, match="relu_param was read before Own was registered: import its module"):
        CaffeNet(net)


def test_a_type_in_the_place_of_one_that_is_built_in() -> None:
    @register("AbsVal", replaces=True)
    class AbsVal(Layer):
        @staticmethod
        def declare(param, shapes, tops):
            return Declared([shapes[0]])

        def forward(self, x):
            return x + 1

    net = one(layer_type="AbsVal")
    assert result(net) == 2
    with pytest.raises(InputError, match="AbsVal is a type of your own"):
        ReferenceNet.from_message(net, 1)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--allow-module", "nobody.py"], "nobody.py: there is no such file"),
        (["--allow-module", "nobody_at_all"], 'Python module "nobody_at_all": No module named'),
        (["--proto", "nobody.proto"], "nobody.proto: cannot be read"),
        (["--allow-module", "channel_swish.py"], "reads channel_swish_param by its fork's schema: give it"),
        (["--proto", "solver.prototxt"], "solver.prototxt:1: a message or an enum is expected, not 'net'"),
        (["--proto", "none.proto"], "none.proto: has no message LayerParameter"),
        (
            ["--allow-module", "channel_swish.py", "--proto", "less.proto"],
            "less.proto: LayerParameter has no field channel_swish_param",
        ),
        ([], 'did you mean ChannelScale or ChannelNorm? Else write it yourself (see register() in port.layers)'),
    ],
)  # fmt: skip
def test_options(folder: Path, arguments: list[str], told: str) -> None:
    (folder / "none.proto").write_text("message Foo {}")
    (folder / "less.proto").write_text("message LayerParameter {}")
    ran = CliRunner().invoke(cli.app, ["summary", "channel_swish.prototxt", *arguments])
    assert isinstance(ran.exception, InputError) and told in str(ran.exception)


# ---- Schemas


def test_the_suites_own_schema_is_read_as_the_compiler_reads_it() -> None:
    compiled, pool, again = FileDescriptorProto(), DescriptorPool(), FileDescriptorProto()
    caffe_pb2.DESCRIPTOR.CopyToProto(compiled)
    pool.Add(parse_proto((ROOT / "prototxt" / "caffe.proto").read_text(encoding="utf-8"), compiled.name))
    pool.FindFileByName(compiled.name).CopyToProto(again)
    assert again == compiled


def test_what_a_proto_may_have(tmp_path: Path) -> None:
    (tmp_path / "base.proto").write_text("package p; message Base { optional int32 x = 1 [default = 0x10]; }")
    (tmp_path / "a.proto").write_text(
        r"""
        // a fork's schema
        syntax = "proto2"; package p.q; import "far/away/base.proto";
        option java_package = "x"; /* two
        lines */
        message A {
          enum Kind { option allow_alias = true; ONE = 1; TWO = -2 [deprecated = true]; ALSO = 1; }
          message In { optional A up = 1; }
          optional Kind kind = 1 [(my.option) = { a: 1 }, default = TWO, deprecated = true];
          repeated float values = 2 [packed = true];
          optional .p.Base base = 3; optional Base again = 4;
          optional string text = 5 [default = "it\'s\n" 'so'];
          optional bytes raw = 6 [default = "\x00a\\"];
          optional double tiny = 7 [default = -1e-30]; optional float large = 8 [default = inf];
          optional int64 negative = 9 [default = -012]; optional bool on = 10 [default = true];
          oneof which { int32 left = 11; In right = 12; }
          map<string, In> by_name = 13;
          repeated group Item = 14 { optional int32 y = 1; }
          extensions 100 to 199, 500 to max; reserved 15, 20 to 30; reserved "old";
          optional string message = 16; optional int32 optional = 17;
          extend Base { optional int32 z = 1; }
        };
        service S { rpc F (A) returns (A) { option o = 1; } }
        extend A { optional int32 more = 100; }
        """
    )
    a = read_proto(tmp_path / "a.proto")["A"]()
    assert (a.kind, a.TWO, a.ONE, a.ALSO) == (-2, -2, 1, 1)
    assert (a.text, a.raw, a.tiny, a.large) == ("it's\nso", b"\x00a\\", -1e-30, float("inf"))
    assert (a.negative, a.on, a.base.x, a.again.x) == (-10, True, 16, 16)
    a.by_name["k"].up.left = 3
    a.item.add(y=4)
    a.values.extend([1, 2])
    again = type(a).FromString(a.SerializeToString())
    assert again == a and again.WhichOneof("which") is None


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("message A {\n  optional int32 x 1;\n}", 2, "\"=\" is expected, not '1'"),
        ("message A {\n  optional int32 x = y;\n}", 2, "a number is expected, not 'y'"),
        ("message A {\n  int32 x = 1;\n}", 2, "optional, required or repeated is expected, not 'int32'"),
        ("message A {\n\n  optional Foo x = 1;\n}", 3, "x: there is no type Foo"),
        ("message A {\n  optional int32 x = 1;\n", 3, "is expected, not the end of the file"),
        (
            "message A {\n optional int32 x = 1;\n optional int32 x = 2;\n}",
            3,
            'A.x: two fields are called "x"',
        ),
        ("message A {\n optional int32 x = 1;\n optional int32 y = 1;\n}", 3, "A.y: x has number 1 too"),
        ("message A {\n optional int32 x = 1 [default = foo];\n}", 2, "foo is no default of x"),
        ("message A {\n optional bool x = 1 [default = 1];\n}", 2, "1 is no default of x"),
        ("enum E {\n}", 2, "enum E has no values"),
        ('import "other.proto";', 1, "imports other.proto, which is not beside this file"),
        ('\nsyntax = "proto4";', 2, "syntax 'proto4' is not supported: proto2 and proto3 are"),
        (
            'message A {\n optional string x = 1 [default = "a];\n}',
            2,
            "'\"' begins nothing that a .proto has",
        ),
        ("message A {\n  /* no end", 2, "'/' begins nothing that a .proto has"),
        ("message A {\n  optional A x = 1\n}", 3, "\";\" is expected, not '}'"),
    ],
)
def test_a_proto_that_does_not_parse(tmp_path: Path, text: str, line: int, told: str) -> None:
    (tmp_path / "a.proto").write_text(text)
    with pytest.raises(InputError) as refused:
        read_proto(tmp_path / "a.proto")
    assert str(refused.value).startswith(f"{tmp_path / 'a.proto'}:{line}: ") and told in str(refused.value)


@pytest.mark.parametrize("seed", range(200))
def test_a_broken_proto_is_one_line(tmp_path: Path, seed: int) -> None:
    """Pieces of a file left out, doubled, exchanged or cut off: it is read, or refused in one line."""
    draw = random.Random(seed)
    pieces = re.findall(r"\w+|\S|\s+", WHOLE)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(pieces))
        change = draw.choice(["leave out", "put in", "put in", "exchange", "cut off"])
        if change != "put in":
            del pieces[at : at + 1 if change != "cut off" else None]
        if change in ("put in", "exchange"):
            pieces.insert(at, draw.choice([*pieces, "99999999999", "-1", "0x", '"\\x"', "\0", "é", "1e999"]))
        if not pieces:
            break
    (tmp_path / "a.proto").write_text("".join(pieces))
    try:
        read_proto(tmp_path / "a.proto")
    except InputError as error:
        assert "\n" not in str(error) and str(tmp_path / "a.proto") in str(error)


WHOLE = r"""
syntax = "proto2"; package p;
message A {
  enum K { ONE = 1; TWO = -2; } optional K k = 1 [default = TWO, deprecated = true];
  repeated float v = 2 [packed = true]; map<string, A> m = 3; oneof w { int32 l = 4; A r = 5; }
  repeated group It = 6 { optional int32 y = 1; } optional bytes b = 7 [default = "\x00a"]; extensions 100 to max;
}
service S { rpc F (A) returns (A) {} } extend A { optional int32 z = 100; }
"""


def test_messages_too_deep_in_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.proto").write_text("message A { " * 5000 + "}" * 5000)
    with pytest.raises(InputError, match=r"a.proto:1: messages lie more than 60 deep"):
        read_proto(tmp_path / "a.proto")


def test_summary_of_a_net_in_python(folder: Path) -> None:
    use_proto("channel_swish.proto")
    CaffeNet("channel_swish.prototxt", allow_modules=["channel_swish.py"])
    net, _ = summarise("channel_swish.prototxt")
    assert [layer.type for layer in net.layers] == ["Input", "ChannelSwish", "InnerProduct"]
