"""What several test files ask for: an engine (each test runs on both), and the `seenet` command."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from parity_tests.recordings import ENGINES
from port import cli


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    """An engine's pycaffe."""
    return importlib.import_module(f"{request.param}.pycaffe")


@pytest.fixture
def seenet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs `seenet ARGS`: exit status, stdout, stderr. A fault of ours is raised, not told in a line."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["seenet", *map(str, args), "--traceback"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return run
