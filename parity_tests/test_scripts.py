"""Old scripts and the published notebook, run with `import caffe` resolved to an engine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import port.pycaffe
import reference.pycaffe
from parity_tests.recordings import ENGINES, GOLDEN, NETS, error, fill_he_uniform, recorded
from port.attention.figures import overlay
from port.images import read_image
from prototxt import parse_net
from runtime import TEST

RELEASE = os.environ.get("SEENET_RELEASE")

# In the manner of 2018: a net beside the script, the caffe root on the path, blobs by name.
SCRIPT = """
import sys
sys.path.insert(0, "../../python")
import caffe
from caffe.proto import caffe_pb2
import numpy as np
from google.protobuf import text_format

caffe.set_mode_gpu()
caffe.set_device(0)
caffe.SGDSolver.display = 0
param = caffe_pb2.NetParameter()
text_format.Merge(open("v2.prototxt").read(), param)
assert param.layer[0].name == "conv"
net = caffe.Net("v2.prototxt", "v2.caffemodel", caffe.TEST)
net.blobs["data"].reshape(1, 3, 8, 8)
net.blobs["data"].data[...] = np.load(sys.argv[1])
out = net.forward()
np.save(sys.argv[2], out["prob"])
print(list(net.params), [k for k in net.blobs])
"""


def run(engine: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"{engine}.pycaffe", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_old_script(engine: str, tmp_path: Path) -> None:
    for name in ("v2.prototxt", "v2.caffemodel"):
        (tmp_path / name).symlink_to(GOLDEN / "formats" / name)
    with np.load(GOLDEN / "formats" / "formats.npz") as arrays:
        np.save(tmp_path / "in.npy", arrays["input/data"])
        golden = arrays["v2/prob"]
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run(engine, "script.py", "in.npy", "out.npy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "['conv', 'fc'] ['data', 'conv', 'pool', 'fc', 'prob']" in done.stdout
    assert error(np.load(tmp_path / "out.npy"), golden) <= 1e-5


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    done = run("reference", "nothing.py", cwd=tmp_path)
    assert (
        done.returncode == 2 and "nothing.py: no such script" in done.stderr and done.stderr.count("\n") == 1
    )


def test_bad_input_in_a_script_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import caffe\ncaffe.Net('nothing.prototxt', caffe.TEST)\n")
    done = run("reference", "script.py", cwd=tmp_path)
    assert (
        done.returncode == 2
        and done.stderr.startswith("error: nothing.prototxt")
        and done.stderr.count("\n") == 1
    )


@pytest.mark.skipif(not RELEASE, reason="set SEENET_RELEASE to a copy of the authors' repository")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_published_notebook(engine: str, tmp_path: Path) -> None:
    """The notebook's code cells on the published prototxt and layer file, with the recordings' weights."""
    home = tmp_path / "examples" / "SeeNet"
    home.mkdir(parents=True)
    for name in ("deploy_seenet.prototxt", "crelu_layer.py", "samples"):
        (home / name).symlink_to(Path(RELEASE, name).resolve())
    net = port.pycaffe.Net(str(home / "deploy_seenet.prototxt"), TEST, allow_modules=())
    fill_he_uniform(net, recorded("seenet_deploy")[0]["weights"]["seed"])
    net.save(home / "seenet_final.caffemodel")
    notebook = json.loads(Path(RELEASE, "vis.ipynb").read_text())
    cells = notebook["worksheets"][0]["cells"] if "worksheets" in notebook else notebook["cells"]
    source = ["".join(cell.get("input", cell.get("source"))) for cell in cells if cell["cell_type"] == "code"]
    lines = [
        line for cell in source for line in cell.splitlines() if not line.startswith("%")
    ]  # IPython's own
    lines += ["np.save('maps.npy', np.stack(att_maps))", "plt.savefig('figure.png')"]
    (home / "cells.py").write_text("import matplotlib\nmatplotlib.use('Agg')\n" + "\n".join(lines) + "\n")
    done = run(engine, "cells.py", cwd=home)
    assert done.returncode == 0, done.stderr
    maps = np.load(home / "maps.npy")
    assert maps.shape[0] == 4 and np.isfinite(maps).all()

    model = port.SeeNet.from_caffemodel(home / "seenet_final.caffemodel")
    image = read_image(home / "samples" / "2007_001185.jpg")
    for ours, theirs in zip(port.attention_maps(model, image, [4, 7, 10, 14]), maps, strict=True):
        assert np.abs(overlay(ours, image) - theirs).max() <= 3e-5  # the notebook's resizing goes through IPP


def test_the_narrow_net_in_both_engines() -> None:
    """The same script-level calls on both engines give the same net: names, shapes, outputs."""
    nets = [
        module.Net(str(NETS / "seenet" / "narrow_deploy.prototxt"), TEST)
        for module in (reference.pycaffe, port.pycaffe)
    ]
    a, b = nets
    for name in ("inputs", "outputs", "_layer_names", "top_names", "bottom_names"):
        assert getattr(a, name) == getattr(b, name)
    for net in nets:
        fill_he_uniform(net, 5)
        net.blobs["data"].reshape(1, 3, 50, 34)
        net.blobs["label"].reshape(1, 1, 1, 20)
        net.blobs["data"].data[...] = 50 * np.random.RandomState(0).normal(size=(1, 3, 50, 34))
        net.blobs["label"].data[0, 0, 0, 6] = 1
        part = net.forward(end="conv1_b1", blobs=["pool1"])
        assert set(part) == {"conv1_b1", "pool1"}
        assert set(net.forward(start="conv1_b1")) == {"sigmoid1", "score_b2"}
    for name in a.blobs:
        assert error(b.blobs[name].data, a.blobs[name].data) <= 1e-5, name


def test_weights_in_the_prototxt_are_not_drawn(caffe: ModuleType) -> None:
    """`blobs` in the text are the layer's weights, and leave the random numbers to the layers behind it."""
    given = "blobs { shape { dim: 2 dim: 3 } data: 1 data: 2 data: 3 data: 4 data: 5 data: 6 }"
    layer = (
        'layer {{ name: "{0}" type: "InnerProduct" bottom: "x" top: "{0}" {1} inner_product_param {{ num_output: 2 \
        bias_term: false weight_filler {{ type: "gaussian" }} }} }}'
    )
    source = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }'
    caffe.set_random_seed(7)
    net = caffe.Net.from_message(parse_net(source + layer.format("a", given) + layer.format("b", "")), TEST)
    caffe.set_random_seed(7)
    alone = caffe.Net.from_message(parse_net(source + layer.format("b", "")), TEST)
    assert np.array_equal(net.params["a"][0].data, [[1, 2, 3], [4, 5, 6]])
    assert np.array_equal(net.params["b"][0].data, alone.params["b"][0].data)
