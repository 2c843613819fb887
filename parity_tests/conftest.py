"""Each test that asks for an engine runs on both."""

import importlib
from types import ModuleType

import pytest

from parity_tests.recordings import ENGINES


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    """An engine's pycaffe."""
    return importlib.import_module(f"{request.param}.pycaffe")
