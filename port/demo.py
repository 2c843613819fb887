"""`seenet demo`: the main job on a real photograph, with nothing to download."""

from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

import prototxt
from port.attention_files import attend_to_files
from port.images import read_image
from port.parity import ParityReport, compare, published_inputs, rebuilt_weights
from port.pycaffe import TEST, Net
from port.voc import class_indices
from prototxt.errors import InputError
from weights import write_weights

SEED = 20181023
LABELS = "person,aeroplane"


def deploy_prototxt() -> Path:
    """SeeNet's deploy net, as installed."""
    return Path(prototxt.__file__).parent / "seenet" / "deploy.prototxt"


def run_demo(out: Path, progress) -> tuple[list[tuple[str, ...]], ParityReport]:
    """Full-width SeeNet, with rebuilt weights, on scikit-image's photograph of an astronaut.

    Writes to `out`: `seenet_rebuilt.caffemodel`, the attention files, and `parity.html` is left to the caller.
    The weights are random (He's rule, a fixed seed), so the maps show the computation, not learned attention.

    Returns:
        The rows of the attention table and the parity report.
    """
    weights = out / "seenet_rebuilt.caffemodel"
    net = Net(str(deploy_prototxt()), TEST, allow_modules=())
    write_weights(weights, rebuilt_weights(net, SEED))
    del net
    photo = _photograph()
    rows, failed = attend_to_files([photo], LABELS, weights, out)
    if failed:
        raise failed[0]
    inputs = published_inputs(deploy_prototxt(), read_image(photo), class_indices(LABELS))
    return rows, compare(deploy_prototxt(), weights, inputs, progress=progress)


def _photograph() -> Path:
    found = find_spec("skimage")
    if found is None:
        raise InputError("the demo's photograph comes with scikit-image: pip install scikit-image")
    return Path(found.submodule_search_locations[0]) / "data" / "astronaut.png"
