"""The tables of forks in README and docs say what the code has."""

from parity_tests import forks_page, recordings
from prototxt import parse_net
from prototxt.forks import FORK_TYPES
from prototxt.layers.declare import LAYER_TYPES


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
