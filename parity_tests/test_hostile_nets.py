"""Nets whose settings or sizes nobody would write: both engines take them or refuse them in one line.

What `python -m parity_tests.fuzz --target settings` found, cut down. Each runs forward and backward in both engines, in
a process of its own, since some ended it.
"""

import multiprocessing
import runpy
from pathlib import Path

import pytest
import torch

from parity_tests.fuzz import targets
from parity_tests.fuzz.settings import DATA, write_files
from port import blobs
from port.net import CaffeNet
from port.translate.run import run_translate
from port.translate.settings import TranslateSettings
from prototxt.caffe_pb2 import TEST, TRAIN, NoiseParameter
from prototxt.errors import InputError
from prototxt.plan import plan_net
from prototxt.read import parse_net
from runtime.data.augment import draw_salt
from runtime.rng import CaffeRNG


def net(layer: str, *shapes: tuple[int, ...]) -> str:
    """A layer over Input layers of these shapes."""
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "in{i}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {size}' for size in shape)} }} }} }} "
        for i, shape in enumerate(shapes)
    )
    bottoms = " ".join(f'bottom: "in{i}"' for i in range(len(shapes)))
    return f'force_backward: true {inputs} layer {{ name: "l" {bottoms} top: "y" {layer} }}'


FILLED = 'num_output: 4 weight_filler { type: "gaussian" std: 0.1 }'
MAP = (2, 3, 7, 6)
TAKEN = {
    "a stride near 2^31": net(
        f'type: "Convolution" convolution_param {{ {FILLED} kernel_size: 3 stride: 2147483647 }}', MAP
    ),
    "a stride of a million": net(
        f'type: "Convolution" convolution_param {{ {FILLED} kernel_size: 3 pad: 1 stride: 1048576 }}', MAP
    ),
    "a dilation without places": net(
        f'type: "Convolution" convolution_param {{ {FILLED} kernel_size: 1 dilation: 2147483647 }}', MAP
    ),
    "a stride over one place": net(
        f'type: "Deconvolution" convolution_param {{ {FILLED} kernel_size: 3 stride: 2147483647 }}',
        (2, 3, 1, 1),
    ),
    "no spatial axes": net(f'type: "Convolution" convolution_param {{ {FILLED} kernel_size: 3 }}', (1, 1)),
    "a map without places": net(
        'type: "ROIPooling" roi_pooling_param { pooled_h: 7 pooled_w: 7 spatial_scale: 0.0625 }',
        (2, 2, 14, 0),
        (4, 5),
    ),
    "in place, with more axes then": net('type: "Power"', ()).replace('"l"', '"p"')
    + ' layer { name: "l" type: "BN" bottom: "y" top: "y" bn_param { scale_filler { } } }',
    "in place, with more axes then, and nothing in it": net('type: "Power"', (0,)).replace('"l"', '"p"')
    + ' layer { name: "l" type: "BN" bottom: "y" top: "y" bn_param { scale_filler { } } }',
    "an enlarged map without columns": net('type: "Upsample" upsample_param { scale: 2 }', (2, 3, 7, 0)),
    "no image to enlarge": net('type: "Upsample" upsample_param { }', (0, 2, 4, 3), (0, 2, 4, 3)),
    "a window over no channel": net(
        'type: "LRN" lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }', (2, 0, 7, 6)
    ),
    "more similarities than pairs": net('type: "ContrastiveLoss"', (4, 5), (4, 5), (5,)),
    "no probability at all": net('type: "MultinomialLogisticLoss"', (0,), (0,)),
    "fewer steps than labels": net('type: "WarpCTCLoss"', (1, 2, 4), (2, 3)),
}
PRIORS = 'type: "PriorBox" prior_box_param {'
BOXES = 'type: "DetectionOutput" detection_output_param { num_classes: 2 nms_param { } }'
REGIONS = ((1, 18, 9, 11), (2, 5))
REFUSED = {
    "an endless min_size": (net(f"{PRIORS} min_size: inf }}", MAP, MAP), "min_size"),
    "a min_size that is no number": (net(f"{PRIORS} min_size: nan }}", MAP, MAP), "min_size"),
    "an endless max_size": (net(f"{PRIORS} min_size: 3 max_size: inf }}", MAP, MAP), "max_size"),
    "an endless aspect_ratio": (
        net(f"{PRIORS} min_size: 3 aspect_ratio: inf flip: true }}", MAP, MAP),
        "aspect_ratio",
    ),
    "an endless step": (net(f"{PRIORS} min_size: 3 step: inf }}", MAP, MAP), "step"),
    "priors without values": (net(BOXES, (2, 16), (2, 8), (1, 2, 16, 0)), "priors"),
    "locations over a map": (net(BOXES, (2, 16, 3), (2, 8), (1, 2, 16)), "locations"),
    "scores without values": (net(BOXES, (2, 16), (2, 8, 0), (1, 2, 16)), "scores"),
    "a scale that is no number": (
        net(
            'type: "PSROIPooling" psroi_pooling_param { spatial_scale: nan output_dim: 2 group_size: 3 }',
            *REGIONS,
        ),
        "spatial_scale",
    ),
    "a map without rows to warp": (
        net(
            'type: "ROIWarping" roi_warping_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.1 }',
            (2, 3, 0, 11),
            (4, 5),
        ),
        "rows and columns",
    ),
    "no class at all": (net('type: "SegAccuracy"', (0, 0), (0, 1)), "no class"),
    "an endless ratio": (
        net('type: "Proposal" proposal_param { ratio: inf scale: 8 }', (1, 2, 3, 4), (1, 4, 3, 4), (1, 3)),
        "ratio",
    ),
}


ANNOTATED = next(layer for layer in DATA if "AnnotatedData" in layer)
DATA_REFUSED = {
    "resized beyond an int": (DATA[0].replace("new_width: 9", "new_width: 2147483648"), "too large an image"),
    "resized to too much": (
        DATA[0].replace("width: 9", "width: 99999").replace("height: 9", "height: 9999"),
        "too large",
    ),
    "padded to too much": (
        DATA[1].replace("crop_size: 7", "crop_size: 7 pad: 1048576"),
        "too large an image",
    ),
    "less than no foreground": (
        DATA[4].replace("fg_threshold", "fg_fraction: -1 fg_threshold"),
        "from 0 to 1",
    ),
    "endless foreground": (DATA[4].replace("fg_threshold", "fg_fraction: inf fg_threshold"), "from 0 to 1"),
    "expanded without end": (
        ANNOTATED.replace("max_expand_ratio: 2", "max_expand_ratio: inf"),
        "max_expand_ratio",
    ),
    "expanded too much": (
        ANNOTATED.replace("prob: 0.5 max_expand_ratio: 2", "prob: 1 max_expand_ratio: 1e8"),
        "too large an image",
    ),
    "expanded beyond any number": (
        ANNOTATED.replace("prob: 0.5 max_expand_ratio: 2", "prob: 1 max_expand_ratio: 1e38"),
        "canvas would be",
    ),
    "salt on everything, often": (
        ANNOTATED.replace("fraction: 0.1", "fraction: 1e38").replace(
            "noise_param { prob: 0.5", "noise_param { prob: 1 saltpepper: true"
        ),
        "at most 10",
    ),
    "two thousand million trials": (
        ANNOTATED.replace("max_trials: 5", "max_trials: 2147483647"),
        "max_trials",
    ),
    "a database of a long name": (ANNOTATED.replace('"annotated"', f'"{"x" * 3000}"'), "x"),
    "two means for three colours": (
        ANNOTATED.replace("prob: 0.5 max", "prob: 1 max").replace(
            "mirror", "mean_value: 1 mean_value: 2 mirror"
        ),
        "2 mean_value",
    ),
    "resized by its rule to too much": (
        ANNOTATED.replace("height: 9 width", "height: 99999999 width"),
        "too large an image|values, more than|takes",
    ),
}


@pytest.mark.parametrize("kind", DATA_REFUSED)
def test_data_layers_refuse_what_no_image_can_be(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    layer, told = DATA_REFUSED[kind]
    with pytest.raises(InputError, match=told):
        CaffeNet(parse_net(f'layer {{ name: "l" top: "data" {layer} }}'), TRAIN)()


NOT_TRANSLATED = {
    "a map without rows": (
        net('type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL }', (2, 3, 0, 6)),
        "holds no values",
    ),
    "a prior that no integer holds": (
        net(f"{PRIORS} min_size: 3 min_size: 1e38 }}", MAP, MAP),
        "does not run on blobs",
    ),
}


@pytest.mark.parametrize("kind", NOT_TRANSLATED)
def test_what_translated_code_could_not_run_is_refused(kind: str, tmp_path: Path) -> None:
    text, told = NOT_TRANSLATED[kind]
    (tmp_path / "net.prototxt").write_text(text)
    with pytest.raises(InputError, match=rf"net\.prototxt: .*{told}"):
        run_translate(TranslateSettings(prototxt=tmp_path / "net.prototxt", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_text_of_a_prototxt_is_quoted_in_translated_code(tmp_path: Path) -> None:
    mean = r'transform_param { mean_file: "a\000\n\"\\b" }'
    (tmp_path / "net.prototxt").write_text(net(f'type: "TanH" {mean}', MAP))
    assert run_translate(TranslateSettings(prototxt=tmp_path / "net.prototxt", out=tmp_path / "out"))
    scope = runpy.run_path(str(tmp_path / "out" / "model.py"))
    assert scope["PREPROCESSING"]["then_subtract_file"] == 'a\0\n"\\b'


def test_padding_of_nothing() -> None:
    text = 'layers { layer { name: "pad" type: "padding" pad: 1 } top: "p" }'
    text += 'layers { layer { name: "c" type: "conv" num_output: 1 kernelsize: 3 } bottom: "p" top: "c" }'
    with pytest.raises(InputError, match="padding needs a bottom"):
        parse_net(text)


def test_less_than_no_salt() -> None:
    param = NoiseParameter(saltpepper=True, saltpepper_param={"fraction": -1})
    assert draw_salt(param, (5, 6), CaffeRNG(1)) == []


def test_what_is_resized_counts_against_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    monkeypatch.setattr("prototxt.limits._limit", 1 << 26)
    layer = DATA[0].replace("new_width: 9", "new_width: 1048576")
    with pytest.raises(
        InputError, match=r"list.txt:.*9,437,184 pixels take 113,246,208 bytes, 67,108,864 are allowed"
    ):
        CaffeNet(parse_net(f'layer {{ name: "l" top: "data" {layer} }}'), TRAIN)()


@pytest.mark.parametrize("kind", [*TAKEN, *REFUSED])
def test_both_engines_survive(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("net") / "net.prototxt"
    path.write_text(TAKEN[kind] if kind in TAKEN else REFUSED[kind][0])
    process = _FORKS.Process(target=targets.run_engines, args=(path,))
    process.start()
    process.join(60)
    alive = process.is_alive()
    process.kill()
    assert not alive and process.exitcode == 0, f"{kind}: {'hangs' if alive else process.exitcode}"


_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["parity_tests.fuzz.targets"])


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_what_caffe_takes_is_taken(kind: str, phase: int) -> None:
    plan_net(parse_net(TAKEN[kind]), phase)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_nothing_can_be_made_of_is_refused(kind: str) -> None:
    text, told = REFUSED[kind]
    with pytest.raises(InputError, match=f'layer "l": .*{told}'):
        plan_net(parse_net(text), TEST)


def test_an_autocrop_of_layers_that_come_from_each_other() -> None:
    """Its positions are looked up in the layers before it, which nobody had checked by then."""
    text = """
        layer { name: "a" type: "ReLU" bottom: "x" top: "y" }
        layer { name: "b" type: "ReLU" bottom: "y" top: "x" }
        layer { name: "c" type: "AutoCrop" bottom: "x" bottom: "y" top: "z" }
    """
    with pytest.raises(InputError, match="not produced by any earlier layer"):
        plan_net(parse_net(text))


def test_many_tops_of_a_split_worked_on_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes into the memory of all: a blob is brought up to date when it is read, not at each write."""
    count, updates = 40, []
    apply = blobs._Overwritten.apply

    def counted(*given: object) -> object:
        updates.append(1)
        return apply(*given)

    monkeypatch.setattr(blobs._Overwritten, "apply", counted)
    tops = " ".join(f'top: "t{i}"' for i in range(count))
    layers = [
        f'layer {{ name: "r{i}" type: "Power" bottom: "t{i}" top: "t{i}" power_param {{ shift: 1 }} }}'
        for i in range(count)
    ]
    made = CaffeNet(parse_net(net(f'type: "Split" {tops}', (2, 3)).replace('top: "y"', "") + "".join(layers)))
    found = made(torch.zeros(2, 3))
    assert len(updates) <= 2 * count
    assert all((value == count).all() for value in found.values()) and len(found) == count


WRITTEN = {
    "a mean of inf": net('type: "ReLU" transform_param { mean_value: inf mean_value: nan }', MAP),
    "a shift of nan": net('type: "Power" power_param { shift: nan }', MAP),
    "a Parameter that nobody reads": net('type: "Silence"', MAP).replace('top: "y"', "")
    + 'layer { name: "p" type: "Parameter" top: "y" parameter_param { shape { dim: 2 } } }',
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_a_net_that_translates(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What is written is Python, whatever the numbers are."""
    prototxt = tmp_path / "net.prototxt"
    prototxt.write_text(WRITTEN[kind])
    if run_translate(TranslateSettings(prototxt=prototxt, out=tmp_path / "out")):
        compile((tmp_path / "out" / "model.py").read_text(), "model.py", "exec")
    else:
        assert "nan" in kind and "OUT: blob" in capsys.readouterr().out
