"""What docs/translate.md tells to run runs as printed, on files of the repository; the tables of forks are true."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parity_tests import forks_page, recordings
from port import cli
from prototxt import parse_net
from prototxt.forks import FORK_TYPES
from prototxt.layers.declare import LAYER_TYPES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "translate.md").read_text()


@pytest.mark.parametrize("line", re.findall(r"^    seenet (.+)$", PAGE, re.M))
def test_commands(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prototxt", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(cli.app, shlex.split(line))
    assert ran.exit_code == 0, (ran.output, ran.exception)


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prototxt", "weights"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(code, {})
    assert (tmp_path / "changed.caffemodel").exists()


def test_tables_of_forks_are_up_to_date() -> None:
    """Else write them anew: python -m parity_tests.forks_page."""
    assert forks_page.PAGE.read_text(encoding="utf-8") == forks_page.page()
    readme = forks_page.README.read_text(encoding="utf-8")
    assert readme.count(forks_page.BEGIN) == readme.count(forks_page.END) == 1
    assert readme == forks_page.with_table(readme)


def test_each_declared_type_that_bvlc_lacks_names_its_forks() -> None:
    recorded = {
        layer.type for case in recordings.recorded("layers")[0] for layer in parse_net(case["prototxt"]).layer
    }
    assert not set(LAYER_TYPES) - set(FORK_TYPES) - recorded - _UNRECORDED_OF_BVLC


_UNRECORDED_OF_BVLC = {
    *("Data", "DummyData", "HDF5Data", "HDF5Output", "ImageData", "LSTMUnit", "MemoryData", "Python"),
    "WindowData",
}
"""BVLC's types that `layers` has no case of: most are recorded in training runs."""
