"""The commands' helps and refusals: quick, since nothing heavy is loaded, and with one rule for the exit status."""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from port.cli import COMMANDS, load_command

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "scipy", "matplotlib", "h5py")

RUN = """
import contextlib, io, json, sys
from {module} import {function}
told = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["seenet", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            {function}()
        except SystemExit as stop:
            told.append([stop.code or 0, out.getvalue(), err.getvalue()])
print(json.dumps([told, [name for name in {heavy} if name in sys.modules]]))
"""

WEIGHTS = ["--weights", "w.caffemodel", "--out", "out"]
LISTED = ["--list", "list.txt", "--out", "out"]
REFUSED = {
    "attention": [
        [],
        ["a.png", "--out", "out"],
        ["a.png", *WEIGHTS, "--test-size", "x"],
        ["a.png", *WEIGHTS, "--test-size", "3"],
        ["a.png", *WEIGHTS, "--label-state", "never"],
        ["a.png", *WEIGHTS, "--labels", "persn"],
        ["a.png", *WEIGHTS, "--labels", ","],
        ["a.png", *WEIGHTS, "--labels", "dog", "--device", "tpu"],
        ["a.png", *WEIGHTS, "--labels", "dog", "--engine", "abacus"],
        ["a/x.png", "b/x.png", *WEIGHTS, "--labels", "dog"],
        [*WEIGHTS, "--voc", "voc"],
        [*WEIGHTS, "--voc", "voc", "--list", "list.txt", "--shard", "3/2"],
    ],
    "bench": [
        ["--rounds", "0"],
        ["--only", "speed"],
        ["--device", "tpu"],
        ["--chart", "x.pdf"],
        ["--json", "."],
    ],
    "convert": [[], ["one.caffemodel"], ["one.caffemodel", "two.pth", "--explain"]],
    "demo": [["more"]],
    "evaluate": [
        [],
        ["--gt", "gt", "--list", "list.txt"],
        ["--list", "list.txt", "--pred", "p"],
        ["--list", "list.txt", "--pred", "p", "--against", "a"],
        ["--list", "list.txt", "--attention", "p", "--against", "a", "--gt", "gt"],
    ],
    "explain": [
        [],
        ["a.png", "--labels", "dog", "--out", "out"],
        ["a.png", "--labels", "dog", *WEIGHTS, "--mint", "0.9"],
        ["a.png", "--labels", "dog", *WEIGHTS, "--device", "tpu"],
        ["a.png", "--labels", "persn", *WEIGHTS],
    ],
    "export": [
        [],
        ["--weights", "w", "--onnx", "."],
        ["--weights", "w"],
        ["--weights", "w", "--safetensors", "x.pth"],
        ["--weights", "w", "--pt2", "x", "--test-size", "3"],
    ],
    "gallery": [[], ["--voc", ".", *LISTED, "--side", "3"], ["--voc", ".", *LISTED, "--workers", "-1"]],
    "launchers": [[]],
    "parity": [[], ["--prototxt", "net", "--engines", "abacus"], ["--prototxt", "net", "--labels", "persn"]],
    "pipeline": [
        [],
        ["--out", "out", "--nets", "none"],
        ["--out", "out", "--backbone", "resnet101"],
        ["--out", "out", "--device", "tpu"],
    ],
    "proxy-labels": [
        [],
        ["--attention", "a", *LISTED, "--fusion", "sum"],
        ["--attention", "a", *LISTED, "--low-saliency", "300"],
        ["--attention", "a", *LISTED, "--workers", "-1"],
    ],
    "saliency": [
        [],
        ["--prototxt", "net", *WEIGHTS],
        ["a.png", "--prototxt", "net", *WEIGHTS, "--voc", "voc"],
        ["a.png", "--prototxt", "net", *WEIGHTS, "--workers", "0"],
        ["a.png", "--prototxt", "net", *WEIGHTS, "--device", "tpu"],
    ],
    "segment": [
        [],
        [*WEIGHTS],
        ["a.png", *WEIGHTS, "--scales", "one"],
        ["a.png", *WEIGHTS, "--scales", "99"],
        ["a.png", *WEIGHTS, "--tile", "3"],
        ["a.png", *WEIGHTS, "--crf-gaussian", "-1"],
        ["a.png", *WEIGHTS, "--device", "tpu"],
    ],
    "shapes": [
        [],
        ["--out", "out", "-n", "0"],
        ["--out", "out", "--size", "3"],
        ["--out", "out", "--kind", "photographs"],
        ["--out", "out", "--workers", "-1"],
    ],
    "studies": [
        [],
        ["--out", "out", "--seeds", "0"],
        ["--out", "out", "--device", "tpu"],
        ["--out", "out", "--design", "no-such-file"],
    ],
    "survey": [["no-such-folder"]],
    "summary": [
        [],
        ["net", "--phase", "REST"],
        ["net", "--input", "data"],
        ["net", "--graph", "net.png"],
    ],
    "train": [
        [],
        ["--solver", "nothing.prototxt"],
        ["--solver", "s", "--weights", "w", "--snapshot", "s"],
        ["--solver", "SOLVER", "--device", "tpu"],
        ["--solver", "SOLVER", "--sigint_effect", "sing"],
        ["--solver", "SOLVER", "--phase", "REST"],
    ],
    "translate": [
        [],
        ["net"],
        ["net", "--out", "out", "--phase", "both"],
        ["net", "--out", "out", "--class-name", "2Net"],
        ["net", "--out", "out", "--input-shape", "data=x"],
        ["net", "--out", "out", "--input-shape", "data"],
    ],
    "voc-labels": [
        [],
        ["--voc", "v", "--list", "l", "--from", "hearsay"],
        ["--voc", "v", "--list", "l", "--workers", "-1"],
    ],
}


def run(runs: list[list[str]], module: str = "port.cli", function: str = "main") -> tuple[list, list[str]]:
    """In a process of its own: (exit status, stdout, stderr) of each run, and what was loaded of `HEAVY`."""
    script = RUN.format(module=module, function=function, heavy=HEAVY)
    solver = str(ROOT / "prototxt" / "seenet" / "solver.prototxt")
    runs = [[solver if argument == "SOLVER" else argument for argument in arguments] for arguments in runs]
    ran = subprocess.run(
        [sys.executable, "-c", script, json.dumps(runs)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(ran.stdout.splitlines()[-1]))


def test_every_command_is_refused_something() -> None:
    assert REFUSED.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_refusals_load_nothing_heavy(command: str) -> None:
    refused = [[command, "--no-such-option"], *([command, *arguments] for arguments in REFUSED[command])]
    told, heavy = run([["--help"], [command, "--help"], *refused])
    assert not heavy
    (status, everything, _), (own_status, own, _), *refusals = told
    assert (status, own_status) == (0, 0) and all(name in everything for name in COMMANDS)
    assert f"seenet {command}" in own and "--help" in own
    for arguments, (status, out, err) in zip(refused, refusals, strict=True):
        assert status == 2 and not out and err and "Traceback" not in err, arguments
    assert "No such option" in refusals[0][2]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_says_what_the_command_says(command: str) -> None:
    where, summary = COMMANDS[command]
    module, function = where.split(":")
    doc = inspect.getdoc(getattr(importlib.import_module(module), function))
    assert doc.splitlines()[0] == summary


def test_the_version() -> None:
    ((status, out, _),), heavy = run([["--version"]])
    assert status == 0 and re.fullmatch(r"seenet-caffe \d+\.\d+\.\d+\n", out) and not heavy


def test_an_unknown_command() -> None:
    ((status, _, err),), heavy = run([["atention"]])
    assert status == 2 and "attention" in err and not heavy


def test_training_alone() -> None:
    """`python port/train_caffe_equiv.py` is the same command."""
    told, heavy = run([["--help"], [], ["--solver", "x", "--phase", "2"]], "port.training.command")
    assert [status for status, _, _ in told] == [0, 2, 2] and not heavy
    script = ROOT / "port" / "train_caffe_equiv.py"
    ran = subprocess.run(
        [sys.executable, script, "--iterations", "x"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2 and "--iterations" in ran.stderr


def test_memory_is_a_setting_of_every_command() -> None:
    net = str(ROOT / "prototxt" / "shapes" / "deploy.prototxt")
    refused, told = run([["--max-memory", "0.001", "summary", net], ["--max-memory", "-1", "summary", net]])[
        0
    ]
    assert refused[0] == 2 and "deploy.prototxt:4:" in refused[2] and "--max-memory" in refused[2]
    assert told[0] == 2 and "Invalid value" in told[2]
    allowed, tool = run(
        [["--max-memory", "1", "summary", net], ["--max-memory", "1", "parse_log", "--help"]]
    )[0]
    assert allowed[0] == tool[0] == 0 and "parse_log" in tool[1]


NO_TABLES = ("explain", "launchers", "proxy-labels", "saliency", "train", "translate")


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_and_json_are_spelt_alike(command: str) -> None:
    """Each command has --quiet, each that prints tables --json."""
    options = {option for parameter in load_command(command).params for option in parameter.opts}
    assert "--quiet" in options
    assert ("--json" in options) != (command in NO_TABLES)


def test_a_command_without_a_word_and_its_table(tmp_path: Path) -> None:
    net, told = str(ROOT / "prototxt" / "shapes" / "deploy.prototxt"), tmp_path / "told.json"
    runs = [["summary", net, "--quiet", "--json", str(told)], ["summary", "--prototxt", net]]
    quiet, loud = run(runs)[0]
    assert quiet == [0, "", ""] and loud[0] == 0
    ((title, rows),) = [table.values() for table in json.loads(told.read_text())]
    assert title and title in loud[1]
    first = next(row for row in rows if row["layer"] == "conv1_1")
    assert (first["type"], first["output"], first["parameters"]) == ("Convolution", "1×8×500×500", 224)


@pytest.mark.parametrize("command", ["summary", "translate", "parity"])
def test_the_net_is_given_by_place_or_by_name(command: str) -> None:
    out = ["--out", "out"] if command == "translate" else []
    refused = run([[command, *out], [command, "a", "--prototxt", "b", *out]])[0]
    assert [status for status, _, _ in refused] == [2, 2]
    assert "give the net" in refused[0][2] and "give the net once" in refused[1][2]
    by_place, by_name = run(
        [[command, "none.prototxt", *out], [command, "--prototxt", "none.prototxt", *out]]
    )[0]
    assert by_place == by_name and by_place[0] == 2 and "none.prototxt" in by_place[2]


@pytest.mark.parametrize(
    ("text", "meant"), [("persn", "person"), ("Bycicle", "bicycle"), ("tvmonitr", "tv/monitor")]
)
def test_the_nearest_class_is_offered(text: str, meant: str) -> None:
    ((status, _, err),), _ = run([["attention", "a.png", *WEIGHTS, "--labels", text]])
    assert status == 2 and f"did you mean {meant}?" in err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("seenet att", ["attention"]),
        ("seenet attention --lab", ["--labels", "--label-state"]),
        ("seenet caffe t", []),
    ],
)
def test_a_shell_completes(typed: str, offered: list[str]) -> None:
    """Also behind the name of a tool of Caffe's, which is not run."""
    asked = {"_SEENET_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    script = "import sys; sys.argv = ['seenet']; from port.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == offered and not ran.stderr
