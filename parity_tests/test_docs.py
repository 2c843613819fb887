"""What docs/translate.md tells to run runs as printed, on files of the repository."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from port import cli

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
