"""A built wheel in an environment of its own: the commands, the files that they name, and what lies about."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from parity_tests.test_translate import LENET
from weights import LayerWeights, write_weights

ROOT = Path(__file__).parents[1]
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's commands; its packages but ours are those of this one."""
    base = tmp_path_factory.mktemp("installed")
    source = base / "source"
    copied = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    if not any(copied):
        pytest.skip("not a clone: there is nothing to build from")
    for name in filter(None, copied):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    pip = [sys.executable, "-I", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(base), str(source)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr[-200:]}")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], check=True)
    python = base / "venv" / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    packages = Path(where.stdout.strip())
    (wheel,) = base.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # pip must not see ours there
    return python.parent


@pytest.fixture
def run(installed: Path, tmp_path: Path):
    """Run a command in a folder of its own, in which the user's `weights.py` and `port.py` lie."""
    for name in ("weights", "port"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the user\\'s own module was imported')\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        program = installed / str(command[0])
        return subprocess.run(
            [program, *map(str, command[1:])],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_help_and_version(run) -> None:
    assert "translate" in run("seenet", "--help").stdout
    assert run("seenet", "--version").stdout.startswith("seenet-caffe ")
    where = run("python", "-P", "-c", "import port; print(port.__file__)").stdout
    assert "installed" in where and str(ROOT) not in where


def test_demo(run, tmp_path: Path) -> None:
    done = run("seenet", "demo")
    assert done.returncode == 0, done.stderr
    named = [word.rstrip(".,;:") for word in done.stdout.split() if word.startswith("out/")]
    assert named
    for name in named:
        if name != "out/maps":  # what the next command would write
            assert (tmp_path / name).exists(), name


@pytest.mark.parametrize(
    "command",
    [
        ["attention", PHOTO, "--labels", "person", "--weights", "shapes", "--out", "maps"],
        ["explain", PHOTO, "--labels", "person", "--weights", "shapes", "--out", "page"],
        ["export", "--weights", "shapes", "--pt2", "seenet.pt2", "--test-size", "64"],
        ["convert", "shapes", "shapes.safetensors"],
        ["shapes", "--out", "images", "-n", "10"],
    ],
    ids=lambda command: command[0],
)
def test_shapes_names_weights(run, tmp_path: Path, command: list) -> None:
    done = run("seenet", *command, "--quiet")
    assert done.returncode == 0, done.stderr
    assert not done.stdout


@pytest.mark.parametrize("command", ["translate", "parity", "summary"])
def test_a_net(run, installed: Path, tmp_path: Path, command: str) -> None:
    where = run("python", "-P", "-c", "import prototxt; print(prototxt.__file__)").stdout.strip()
    net = Path(where).parent / "shapes" / "deploy.prototxt"
    more = ["--out", "net"] if command == "translate" else ["--json", "told.json"]
    done = run("seenet", command, "--prototxt", net, "--weights", "shapes", *more)
    assert done.returncode == 0, done.stderr
    if command != "translate":
        (table, *_) = json.loads((tmp_path / "told.json").read_text())
        assert len(table["rows"]) > 10


def test_train(run, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "DummyData" top: "d" top: "l" dummy_data_param { '
        "shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: 'gaussian' } data_filler { value: 1 } } }"
        'layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 3 } }'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "l" top: "loss" }'
    )
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 3 display: 1 snapshot_prefix: "s"'
    )
    done = run("seenet", "train", "--solver", "solver.prototxt")
    assert done.returncode == 0, done.stderr
    assert "Optimization Done." in done.stderr and (tmp_path / "s_iter_3.caffemodel").exists()


def test_files_that_messages_name(run, tmp_path: Path) -> None:
    write_weights(tmp_path / "net.caffemodel", [LayerWeights("ip", "InnerProduct", [np.ones((2, 2), "f")])])
    command = ["attention", PHOTO, "--labels", "person", "--weights", "net.caffemodel", "--out", "maps"]
    for told in (
        run("seenet", *command).stderr,
        run("seenet", "explain", PHOTO, "--labels", "person", "--out", "o").stderr,
    ):
        (readme,) = [word for word in told.split() if word.endswith("README.md")]
        assert Path(readme).is_file() and str(ROOT) not in readme


def test_a_foreign_module_is_told_of(run, tmp_path: Path) -> None:
    """`python -m` puts the folder first; a command does not."""
    (tmp_path / "port.py").unlink()
    done = run("python", "-m", "port.cli", "--version")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {tmp_path}/weights.py hides this project's package weights: rename it, or run from another folder\n"
    )
    (tmp_path / "script.py").write_text("import caffe\nprint(caffe.__name__)\n")
    assert "weights.py hides" in run("python", "-m", "port.pycaffe", "script.py").stderr
    (tmp_path / "lenet.prototxt").write_text(LENET)
    assert run("seenet", "summary", "lenet.prototxt").returncode == 0
