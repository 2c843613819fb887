"""Scripts and layer modules of Python 2: recognised in one line, and run as Python 2 ran them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from runtime.cython_helpers import bbox_overlaps, cpu_nms, gpu_nms
from runtime.python2 import compile_python2, helpers, python2_error

# Source, and what Python 2.7 prints of it.
PROGRAMS = {
    "print statement": ("print 'step', 3\nprint\nprint 'a',\nprint 'b'\n", "step 3\n\na b\n"),
    "print into a file": ("import sys\nprint >>sys.stdout, 'x', 1\n", "x 1\n"),
    "print in brackets": ("print('x')\nprint(1, 2)[1] if 0 else 'y'\n", "x\ny\n"),
    "print function": ("from __future__ import print_function\nprint('a', 'b', sep='-')\n", "a-b\n"),
    "xrange and range": ("print range(3)[1:], sum(xrange(4)), len(range(2) + [5])\n", "[1, 2] 6 3\n"),
    "dictionaries": (
        "d = {'a': 1}\nfor k, v in d.iteritems(): print k, v\nprint d.has_key('a'), d.keys()[0]\n",
        "a 1\nTrue a\n",
    ),
    "lists of map, filter and zip": (
        "print map(str, [1, 2])[0], filter(None, [0, 3])[0], zip([1], [2])[0]\n",
        "1 3 (1, 2)\n",
    ),
    "exceptions": (
        "try:\n  raise ValueError, 'no'\nexcept (ValueError, KeyError), e:\n  print e\n",
        "no\n",
    ),
    "exec, backticks, <>, octal, long": ("exec 'x = 8'\nprint `x`, 010, 1 <> 2, 5L + 1\n", "8 8 True 6\n"),
    "integer division": ("x = 7\nx /= 2\nprint 7 / 2, -7 / 2, x, 7 / 2., 7.0 / 2\n", "3 -4 3 3.5 3.5\n"),
    "division from the future": ("from __future__ import division\nprint 7 / 2\n", "3.5\n"),
    "integer arrays": (
        "import numpy as np\na = np.array([7, -7])\nb = a\nb /= 2\nprint a.tolist(), (a / 2.).tolist()\n",
        "[3, -4] [1.5, -2.0]\n",
    ),
    "round and cmp": ("print round(2.5), round(-0.5), round(2.675, 1), cmp(1, 2)\n", "3.0 -1.0 2.7 -1\n"),
    "tabs of eight columns": ("if 1:\n\tx = 1\n        y = 2\nprint x + y\n", "3\n"),
    "tuple parameters": ("def f((a, b), c): return a + b + c\nprint f((1, 2), 3)\n", "6\n"),
    "strings": ("print isinstance('a', basestring), unicode('b'), u'c'\n", "True b c\n"),
    "modules": (
        "import cPickle as p, ConfigParser\nfrom StringIO import StringIO\nimport cPickle\n"
        "print p.loads(cPickle.dumps([1], -1)), StringIO('z').read()\n",
        "[1] z\n",
    ),
    "method called sort": (
        "import numpy as np\nprint np.sort(np.array([[2, 1]]), axis=1).tolist()\n",
        "[[1, 2]]\n",
    ),
    "numpy's old ways": (
        "import numpy as np\nx = np.arange(4).astype(np.float)\nn = np.round(1.2)\n"
        "print x[n:n + 2].tolist(), np.random.choice(4, size=n).shape, x[:-1][::2].tolist(), np.float == float\n",
        "[1.0, 2.0] (1,) [0.0, 2.0] True\n",
    ),
    "latin": ("# -*- coding: latin-1 -*-\n# caf\xe9\nprint 'x'\n", "x\n"),
    "no encoding named": ("# caf\xe9\nprint 'x'\n", "x\n"),
    "Python 3's print": ("import sys\nprint('x', file=sys.stdout)\n", "x\n"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_translated_code_does_what_python_2_did(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source, printed = PROGRAMS[name]
    exec(compile_python2(source.encode("latin-1"), "x.py"), {**helpers(), "__name__": "x"})
    assert capsys.readouterr().out == printed


def test_pickles_of_python_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An array of floats that Python 2 pickled (its bytes are a `str` there), in a file opened as text."""
    data = np.array([1.5, -2.0])
    raw = data.tobytes().decode("latin-1")
    escaped = raw.encode("unicode_escape").decode().replace("'", "\\'")
    (tmp_path / "a.pkl").write_text(
        "cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\ntp4\nRp5\n(I1\n(I2\n"
        "tp6\ncnumpy\ndtype\np7\n(S'f8'\np8\nI0\nI1\ntp9\nRp10\n(I3\nS'<'\np11\nNNNI-1\nI-1\nI0\ntp12\nbI00\n"
        f"S'{escaped}'\np13\ntp14\nb."
    )
    source = f"import cPickle\nprint cPickle.load(open({str(tmp_path / 'a.pkl')!r})).tolist()\n"
    exec(compile_python2(source.encode(), "x.py"), helpers())
    assert capsys.readouterr().out == "[1.5, -2.0]\n"


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        ("import os\nprint 'x'\n", 2, "print statement"),
        ("try:\n  pass\nexcept ValueError, e:\n  pass\n", 3, "except with a comma"),
        ("raise ValueError, 'x'\n", 1, "raise with a comma"),
        ("exec 'x' in {}\n", 1, "exec statement"),
        ("x = `1`\n", 1, "backticks"),
        ("x = 1 <> 2\n", 1, "<>"),
        ("x = 0777\n", 1, "old octal number"),
        ("x = 10L\n", 1, "long number"),
        ("if 1:\n\tx = 1\n        y = 2\n", 3, "tabs mixed with spaces"),
        ("def f((a, b)):\n  pass\n", 1, "tuple parameter"),
        ("x = 1\nfor i in xrange(3): pass\n", 2, "xrange"),
        ("{}.iteritems()\n", 1, "iteritems"),
        ("import os\nimport cPickle\n", 2, "cPickle"),
    ],
)
def test_python_2_is_recognised(source: str, line: int, what: str, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    try:
        exec(compile(source, str(path), "exec"), {})
    except Exception as error:
        assert python2_error(error) == f"{path}:{line}: {what} of Python 2"
    else:
        pytest.fail("ran")


@pytest.mark.parametrize(
    "source", ["x = (\n", "print 'x' +\n", "undefined\n", "import nowhere\n", "[].none\n"]
)
def test_other_errors_are_not_called_python_2(source: str, tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    try:
        exec(compile(source, str(path), "exec"), {})
    except Exception as error:
        assert python2_error(error) is None
    else:
        pytest.fail("ran")


# ---- Scripts with nets

LAYER = """import caffe
class Halve(caffe.Layer):
\tdef setup(self, bottom, top):
\t\tself.by = 5 / 2
        def reshape(self, bottom, top):
                top[0].reshape(*bottom[0].data.shape)
\tdef forward(self, bottom, top):
\t\ttop[0].data[...] = bottom[0].data / self.by
\tdef backward(self, top, propagate_down, bottom):
\t\tprint 'never'
"""

NET = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 } } }
layer { name: "half" type: "Python" bottom: "x" top: "y" python_param { module: "halving" layer: "Halve" } }
"""

SCRIPT = """import os
os.environ['GLOG_minloglevel'] = '2'
import caffe, sys
import helper
net = caffe.Net('net.prototxt', caffe.TEST)
net.blobs['x'].data[...] = helper.values()
for name, value in net.forward().iteritems():
    print name, value.tolist(), sys.argv[1:], __name__
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "halving.py").write_text(LAYER)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "helper.py").write_text("def values():\n    return map(float, xrange(3, 5))\n")
    (tmp_path / "old.py").write_text(SCRIPT)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("engine", ["reference", "port"])
def test_a_script_of_python_2_runs_translated(engine: str, folder: Path) -> None:
    """With its helper module and its layer module; nothing is written, not even a cache."""
    done = run(folder, "-m", f"{engine}.pycaffe", "--python2", "old.py", "a", "b")
    assert done.stdout == "y [1.5, 2.0] ['a', 'b'] __main__\n", done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [
        "halving.py",
        "helper.py",
        "net.prototxt",
        "old.py",
    ]


def test_without_the_option_one_line_says_how_to_go_on(folder: Path) -> None:
    done = run(folder, "-m", "reference.pycaffe", "old.py", "a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: old.py:8: print statement of Python 2: to have it translated as it runs: "
        "python -m reference.pycaffe --python2 old.py a\n"
    )


def test_a_layer_of_python_2_in_a_command(folder: Path) -> None:
    """The module is loaded before the net is read, as it may register the net's types."""
    done = run(folder, "-m", "port.cli", "summary", "net.prototxt", "--allow-module", "halving")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (
        "halving.py:5: tabs mixed with spaces of Python 2: translate it (python -m fissix -w -n "
        in done.stderr
    )


# ---- Helpers in Cython


@pytest.fixture
def boxes() -> np.ndarray:
    """(60, 5) float32 with whole corners, so that overlaps of exactly a half occur; two pairs with one score."""
    draw = np.random.RandomState(2)
    corners = draw.randint(0, 12, (60, 2))
    found = np.hstack([corners, corners + draw.randint(0, 8, (60, 2)), draw.rand(60, 1)]).astype(np.float32)
    found[[3, 8], 4] = found[[5, 9], 4]
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """By counting pixels."""
    pixels = [
        {(x, y) for x in range(int(box[0]), int(box[2]) + 1) for y in range(int(box[1]), int(box[3]) + 1)}
        for box in (a, b)
    ]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


def test_bbox_overlaps(boxes: np.ndarray) -> None:
    counted = [[overlap(a, b) for b in boxes[:9]] for a in boxes]
    np.testing.assert_allclose(bbox_overlaps(boxes[:, :4], boxes[:9, :4]), counted, rtol=1e-12)


@pytest.mark.parametrize(("nms", "equal_stands"), [(cpu_nms, False), (gpu_nms, True)])
def test_nms(nms: Callable, equal_stands: bool, boxes: np.ndarray) -> None:
    """One by one, as the project's loops go; an overlap of exactly the threshold parts the two."""
    keep: list[int] = []
    for i in boxes[:, 4].argsort()[::-1]:
        over = [overlap(boxes[i], boxes[j]) for j in keep]
        if all(found < 0.5 or (found == 0.5 and equal_stands) for found in over):
            keep.append(int(i))
    assert nms(boxes, 0.5) == keep


def test_helpers_are_found_where_a_project_has_none(folder: Path) -> None:
    (folder / "nms").mkdir()
    (folder / "nms" / "__init__.py").touch()
    (folder / "utils").mkdir()
    (folder / "utils" / "__init__.py").touch()
    (folder / "utils" / "cython_bbox.py").write_text("bbox_overlaps = 'their own'\n")
    (folder / "nets.py").write_text(
        "import numpy as np\nfrom nms.cpu_nms import cpu_nms\nfrom utils.cython_bbox import bbox_overlaps\n"
        "print(cpu_nms(np.eye(5, dtype='f4')[3:], 0.5), bbox_overlaps)\n"
    )
    done = run(folder, "-m", "reference.pycaffe", "nets.py")
    assert done.stdout == "[1] their own\n", done.stderr


def test_installed_packages_are_not_translated(folder: Path) -> None:
    """Text of Python 3 means something else in Python 2: what pip put into a folder is left as it is."""
    (folder / "old.py").write_text(
        "import sys\nsys.path.insert(0, 'deps')\nimport modern\nprint modern.half\n"
    )
    (folder / "deps" / "modern-1.0.dist-info").mkdir(parents=True)
    (folder / "deps" / "modern.py").write_text("half = 1 / 2, '\\u2028' == chr(0x2028)\n")
    done = run(folder, "-m", "reference.pycaffe", "--python2", "old.py")
    assert done.stdout == "(0.5, True)\n", done.stderr


@pytest.mark.parametrize("level", ["0", "2"])
def test_a_script_may_silence_the_log_before_it_imports_caffe(level: str, folder: Path) -> None:
    (folder / "solver.prototxt").write_text(
        'base_lr: 0.1 lr_policy: "fixed" max_iter: 1 solver_mode: CPU net_param { '
        'layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 2 dim: 1 } } } '
        'layer { name: "p" type: "InnerProduct" bottom: "d" top: "p" inner_product_param { num_output: 1 } } '
        'layer { name: "l" type: "EuclideanLoss" bottom: "p" bottom: "d" top: "l" } }'
    )
    (folder / "train.py").write_text(
        f"import os\nos.environ['GLOG_minloglevel'] = '{level}'\nimport caffe\n"
        "caffe.get_solver('solver.prototxt').step(1)\n"
    )
    done = run(folder, "-m", "port.pycaffe", "train.py")
    assert done.returncode == 0, done.stderr
    assert ("Solver scaffolding done." in done.stderr, done.stderr == "") == (level == "0", level == "2")
