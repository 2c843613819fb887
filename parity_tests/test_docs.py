"""What README and docs tell to run runs as printed, page by page, in a folder with what the repository ships."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from port import cli

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "own_layers.md"),
    "weights/README.md",
)
"""docs/own_layers.md, which prints the files that its commands take, has a test of its own."""

NOT_SHIPPED = (
    "VOCdevkit/VOC2012",
    "VGG_ILSVRC_16_layers.caffemodel",
    "torchrun",  # four processes, and the images of VOC
    "seenet_final.caffemodel",
    "dss_model_released.caffemodel",
    "--against authors",
    "examples/mine/train.sh",
    "my_layers.py",
    "path/to/",
    "…",
)
"""What a command needs that cannot be shipped: published weights, datasets, other projects' files."""

NOT_RUN = ("make ", "pip install", "export PATH")
"""Commands that change the environment: continuous integration runs the first ones."""

LONG = (
    "--onnx",
    "onnxruntime",
    "seenet bench",
    "seenet pipeline",
    "seenet demo",
    "out/nsfw",
    "out/faces",
    "parity_tests.bench",
)
LONG_PAGES = ("docs/voc.md",)
"""What takes more than a few seconds, or the network."""

NEEDS = {"onnxruntime": ("onnx", "onnxruntime", "caffe2onnx", "onnx2torch"), "--onnx": ("onnx", "onnxscript")}
"""What stands in a command → the packages that it needs, which a plain installation lacks."""


def commands(page: str) -> list[str]:
    """The command lines of a page, in order, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^    ((?:seenet |python |torchrun |make |pip |export |awk |\./).*)$", text, re.M)
    return [re.sub(r"\s+#.*", "", line) for line in lines]


def runs(line: str) -> bool:
    return not any(name in line for name in NOT_SHIPPED) and not line.startswith(NOT_RUN)


def is_long(page: str, line: str) -> bool:
    return page in LONG_PAGES or any(name in line for name in LONG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the repository's files, where commands write."""
    for name in ("prototxt", "weights", "docs", "port", "runtime", "reference", "parity_tests", "hubconf.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out").mkdir()
    return tmp_path


def run_here(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `run`; `seenet` without a process of its own, which would load torch again."""
    if line.startswith("seenet "):
        monkeypatch.chdir(folder)
        done = CliRunner().invoke(cli.app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.output[-800:], done.exception)
    else:
        run(line, folder)


def run(line: str, folder: Path) -> None:
    programs = {"seenet": f"{sys.executable} -m port.cli", "python": sys.executable}
    program, _, rest = line.partition(" ")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        f"{programs.get(program, program)} {rest}",
        shell=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-800:]}\n{done.stderr[-800:]}"


def skip_without_packages(line: str) -> None:
    for words, packages in NEEDS.items():
        for package in packages if words in line else ():
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")


QUICK = [
    pytest.param(line, id=f"{page}-{line[:40]}")
    for page in PAGES
    for line in commands(page)
    if runs(line) and not is_long(page, line)
]


@pytest.mark.parametrize("line", QUICK)
def test_commands(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(line, folder, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_long_commands(page: str, folder: Path) -> None:
    """One after the other: the later ones read what the earlier ones wrote."""
    lines = [line for line in commands(page) if runs(line) and is_long(page, line)]
    for line in lines:
        skip_without_packages(line)
    if any("out/pypi" in line for line in lines):
        (download,) = [line for line in commands(page) if "out/pypi" in line and line.startswith("pip")]
        got = subprocess.run(
            [sys.executable, "-m", *shlex.split(download)], cwd=folder, capture_output=True, check=False
        )
        if got.returncode:
            pytest.skip("the packages cannot be had here")
    for line in lines:
        run(line, folder)


@pytest.mark.parametrize("page", ["README.md", "docs/translate.md"])
def test_python(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert blocks
    for code in blocks:
        exec(compile(code, page, "exec"), {"__name__": "page"})


def test_what_is_left_out_is_told() -> None:
    """Each command either runs here, or names something that is not shipped."""
    told = [line for page in PAGES for line in commands(page)]
    assert len(told) > 40 and sum(map(runs, told)) > len(told) / 2
    for name in NOT_SHIPPED:
        assert name == "…" or name == "path/to/" or any(name in line for line in told), (
            f"{name} is told nowhere"
        )


def test_links() -> None:
    """Each link to a file of the repository has one behind it."""
    for page in (*PAGES, "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


@pytest.mark.slow
def test_api_reference(tmp_path: Path) -> None:
    """`make docs`: every module of its list is imported, and has its page."""
    if importlib.util.find_spec("pdoc") is None:
        pytest.skip("pdoc is not installed")
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    modules = re.search(r"^API = (.*)$", text, re.M)[1].split()
    command = [
        sys.executable,
        "-m",
        "pdoc",
        "--docformat",
        "google",
        "--output-directory",
        str(tmp_path),
        *modules,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr, done.stderr
    for module in modules:
        assert tmp_path.joinpath(*module.split(".")).with_suffix(".html").exists(), module
