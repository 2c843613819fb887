"""How much memory a net may take: what the machine, a container and a shell allow, and what a net's sizes ask for."""

import subprocess
import sys
from pathlib import Path

import pytest

from port.net import CaffeNet
from prototxt import limits
from prototxt.caffe_pb2 import TEST
from prototxt.errors import InputError
from prototxt.plan import plan_net
from prototxt.read import parse_net

ROOT = Path(__file__).parents[1]

CGROUPS = {
    "version 2": (
        "0::/box/job\n",
        {"box/job/memory.max": "max\n", "box/memory.max": "1000\n", "memory.max": "2000\n"},
    ),
    "version 2, at the top": ("0::/\n", {"memory.max": "1000"}),
    "version 1": (
        "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n",
        {"memory/box/memory.limit_in_bytes": "1000", "memory/memory.limit_in_bytes": "9223372036854771712"},
    ),
    "version 1, seen from within": (
        "4:hugetlb,memory:/docker/f00\n",
        {"memory/memory.limit_in_bytes": "1000"},
    ),
    "none": ("4:memory:/docker/f00\n", {}),
    "damaged": ("4:memory\n", {}),
}


@pytest.mark.parametrize("kind", CGROUPS)
def test_a_containers_limit_counts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, files = CGROUPS[kind]
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = list(limits._cgroup_files(tmp_path / "cgroup", tmp_path))
    monkeypatch.setattr(limits, "_cgroup_files", lambda: found)
    assert limits.memory_there() == 1000 or not files


@pytest.mark.parametrize("kind", ["v", "d"])
def test_a_shells_limit_counts(kind: str) -> None:
    code = "from prototxt.limits import memory_there; print(memory_there())"
    command = f"ulimit -{kind} 1500000 && exec {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert 100_000_000 < int(done.stdout) < 1500_000 * 1024, done.stderr


def test_a_net_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_limit", 1 << 20)
    taken(layer("ReLU", "", "dim: 2 dim: 100 dim: 100"))
    with pytest.raises(
        limits.TooLargeError, match=r"600×300.*703 KiB.*1\.03 MiB.*1 MiB allowed: seenet --max-memory"
    ):
        taken(
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 300 dim: 300 } } }'
            'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 600 dim: 300 } } }'
        )


def test_nothing_is_drawn_of_a_net_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*values: object) -> None:
        raise AssertionError("drawn before the last layer was looked at")

    monkeypatch.setattr("runtime.set_up._drawn", drawn)
    text = layer("InnerProduct", 'inner_product_param { num_output: 2 weight_filler { type: "gaussian" } }')
    with pytest.raises(InputError, match='layer "last"'):
        CaffeNet(parse_net(text + 'layer { name: "last" type: "ReLU" bottom: "nothing" top: "z" }'))
    with pytest.raises(AssertionError):
        CaffeNet(parse_net(text))


def test_drawing_takes_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    text = layer(
        "InnerProduct", 'inner_product_param { num_output: 1000 weight_filler { type: "gaussian" } }'
    )
    monkeypatch.setattr(limits, "_limit", 3 * 4 * 126_000 + 20_000)
    taken(text)
    monkeypatch.setattr(limits, "_limit", 3 * 4 * 126_000 - 20_000)
    with pytest.raises(limits.TooLargeError, match="1000×126"):
        taken(text)


# ---- sizes that one setting asks for


def layer(
    kind: str, settings: str, shape: str = "dim: 2 dim: 3 dim: 7 dim: 6", bottoms: str = 'bottom: "x"'
) -> str:
    return (
        f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }}'
        f'layer {{ name: "l" type: "{kind}" {bottoms} top: "y" {settings} }}'
    )


def taken(net: str) -> None:
    plan_net(parse_net(net), TEST)


CONVOLUTION = 'convolution_param { num_output: 2 weight_filler { type: "xavier" }'
REFUSED = {
    "padded beyond an int": (
        "Convolution",
        f"{CONVOLUTION} kernel_size: 1 pad: 2147483647 stride: 2147483647 }}",
    ),
    "padded beyond the memory": (
        "Convolution",
        f"{CONVOLUTION} kernel_size: 1 pad: 100000000 stride: 100000000 }}",
    ),
    "stride beyond an int": ("Convolution", f"{CONVOLUTION} kernel_size: 1 stride: 4294967295 }}"),
    "dilated beyond an int": ("Deconvolution", f"{CONVOLUTION} kernel_size: 3 dilation: 4294967295 }}"),
    "unfolded": ("Im2col", "convolution_param { kernel_size: 1 pad: 100000000 stride: 100000000 }"),
    "pooled far apart": ("Pooling", "pooling_param { kernel_size: 1 stride: 1048576 }"),
    "pooled beyond an int": ("Pooling", "pooling_param { kernel_size: 1 stride: 4294967295 }"),
    "pooled with much padding": (
        "Pooling",
        "pooling_param { kernel_size: 4294967295 pad: 4294967294 stride: 1 }",
    ),
    "a pyramid too high": ("SPP", "spp_param { pyramid_height: 2147483647 }"),
    "neighbours in far channels": ("LRN", "lrn_param { local_size: 2147483647 }"),
    "neighbours far away": ("LRN", "lrn_param { local_size: 1000001 norm_region: WITHIN_CHANNEL }"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_pass_needs_besides_counts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_limit", 1 << 28)
    with pytest.raises(InputError, match='layer "l"'):
        taken(layer(*REFUSED[kind]))


@pytest.mark.parametrize("shape", ["dim: 4294967295 dim: 0", "dim: 0 dim: 2147483647 dim: 2147483647"])
def test_a_blob_without_values_may_still_be_too_large(shape: str) -> None:
    """Layers make something of its other axes: a mean for each row."""
    with pytest.raises(limits.TooLargeError):
        taken(layer("MVN", "", shape))
