"""Caffe's random numbers and fillers by themselves: against boost's own digests and the recorded fillers."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from prototxt.caffe_pb2 import FillerParameter, NetParameter
from prototxt.errors import InputError
from runtime.fillers import FILLERS, fill
from runtime.rng import CaffeRNG, caffe_rng, set_random_seed
from runtime.ziggurat import standard_normals

GOLDEN = Path(__file__).parents[1] / "reference" / "golden"
RECORDED = json.loads((GOLDEN / "rng.json").read_text())

# What boost 1.74 itself returned (g++ 12, x86-64): the start of the values' SHA-256, and the word after them.
BOOST = [
    ("gaussian", 7, (100_000, 0.5, 2.0), "9507da144c0be08e", 4095164900),
    ("gaussian", 0, (300_000, 0.0, 0.01), "dffa88f690bb7aa6", 1710550569),
    ("uniform", 7, (50_000, -0.2, 0.7), "7026759305b10e5b", 2270502913),
    ("uniform", 7, (20_000, 1000, 1000.0001), "dd22bc424654a630", 1320489122),
    ("uniform", 7, (20_000, -3e38, 3e38), "5126d51abd2fb244", 3750999499),
    ("uniform", 4294967295, (20_000, 0, 0), "f8c784aa6b57396e", 875118748),
    ("bernoulli", 7, (50_000, np.float32(0.3)), "e58568fa8554f53f", 2270502913),
    ("bernoulli", 7, (50_000, 0.3), "e58568fa8554f53f", 2270502913),
    ("bernoulli", 7, (1000, 0.0), "fc19b19971194257", 327741615),
    ("shuffled", 7, (5000,), "816881995f80c64e", 2894943605),
    ("shuffled", 7, (1,), "df3f619804a92fdb", 327741615),
]

# One draw of each kind; `shuffled` stands for the shuffle of 0 … n - 1.
seeds = st.integers(0, 2**32 - 1)
draws = st.one_of(
    st.tuples(st.just("gaussian"), st.integers(0, 3000), st.floats(-2, 2, width=32), st.just(0.5)),
    st.tuples(st.just("uniform"), st.integers(0, 3000), st.just(999.9999), st.just(1000.0)),
    st.tuples(st.just("bernoulli"), st.integers(0, 3000), st.floats(0, 1)),
    st.tuples(st.just("words"), st.integers(0, 3000)),
    st.tuples(st.just("shuffled"), st.integers(0, 300)),
)


def draw(rng: CaffeRNG, kind: str, *arguments) -> np.ndarray:
    if kind != "shuffled":
        return getattr(rng, kind)(*arguments)
    items = list(range(*arguments))
    rng.shuffle(items)
    return np.array(items, np.int32)


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)


def awkward_words(n: int, seed: int) -> np.ndarray:
    """Words of which most do not make a sample alone: layers' edges, tails, and floats that round to 1."""
    rs = np.random.RandomState(seed)
    words = rs.randint(0, 1 << 32, n, np.uint32)
    pick = rs.randint(0, 5, n)
    forms = [
        words,
        words | np.uint32(0xFF000000),
        words | np.uint32(0xFFFFFF00),
        words & np.uint32(0xFFFFFF01) | np.uint32(0xF0000000),
        words | np.uint32(0xFE),
    ]
    return np.stack(forms)[pick, np.arange(n)]


@pytest.mark.parametrize(("kind", "seed", "arguments", "expected", "next_word"), BOOST)
def test_boost_itself(kind, seed, arguments, expected, next_word):
    rng = CaffeRNG(seed)
    assert digest(draw(rng, kind, *arguments)) == expected
    assert rng.words(1)[0] == next_word


def test_boost_itself_on_awkward_words():
    values, _ = standard_normals(awkward_words(20_000, 5))
    assert len(values) == 1974
    assert digest(values) == "5db0317b2b7f28f8"


@pytest.mark.parametrize("seed", [0, 1, 1701, 2**32 - 1])
def test_words_are_the_twister_s(seed):
    twister = np.random.MT19937()
    twister._legacy_seeding(seed)
    assert np.array_equal(CaffeRNG(seed).words(2000), twister.random_raw(2000))


def test_bernoulli_rounds_as_the_type_of_p():
    rng = CaffeRNG(0)
    rng.words = lambda n: np.array([2**31 - 1, 2**31, 2**31 + 128, 2**31 + 129], np.uint32)
    assert rng.bernoulli(4, 0.5).tolist() == [1, 0, 0, 0]
    assert rng.bernoulli(4, np.float32(0.5)).tolist() == [1, 1, 1, 0]


@given(
    seeds, st.lists(st.integers(0, 2000), max_size=6), st.sampled_from(["gaussian", "uniform", "bernoulli"])
)
def test_pieces_are_the_whole(seed, pieces, kind):
    arguments = {"gaussian": (0.1, 2.0), "uniform": (999.9999, 1000.0), "bernoulli": (0.3,)}[kind]
    whole, parts = CaffeRNG(seed), CaffeRNG(seed)
    drawn = [draw(parts, kind, n, *arguments) for n in pieces]
    assert np.array_equal(draw(whole, kind, sum(pieces), *arguments), np.concatenate([[], *drawn]))
    assert whole.state() == parts.state()


@given(seeds, st.integers(1, 400), st.integers(0, 400))
def test_normals_go_on_after_any_word(seed, n, cut):
    words = awkward_words(n, seed)
    whole, _ = standard_normals(words)
    first, used = standard_normals(words[:cut])
    rest, _ = standard_normals(words[used:])
    assert np.array_equal(bits(whole), bits(np.concatenate([first, rest])))


@given(seeds, st.lists(draws, max_size=4), st.lists(draws, min_size=1, max_size=4))
def test_state_resumes_exactly(seed, before, after):
    rng = CaffeRNG(seed)
    for arguments in before:
        draw(rng, *arguments)
    saved = json.loads(json.dumps(rng.state()))
    resumed = CaffeRNG()
    resumed.restore(saved)
    for arguments in after:
        assert np.array_equal(draw(rng, *arguments), draw(resumed, *arguments))


@given(seeds, st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(0, 2.0**100, width=32))
def test_uniform_stays_within_its_bounds(seed, low, span):
    high = np.float32(low) + np.float32(span)
    if not np.isfinite(high) or low == np.finfo(np.float32).max:
        return
    values = CaffeRNG(seed).uniform(500, low, high)
    assert values.dtype == np.float32
    assert values.min() >= np.float32(low) and values.max() <= high


@given(seeds, st.integers(0, 500))
def test_shuffle_keeps_the_items(seed, n):
    assert sorted(draw(CaffeRNG(seed), "shuffled", n)) == list(range(n))


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("uniform", (3, 1.0, 0.0)),
        ("uniform", (3, 0.0, float("inf"))),
        ("uniform", (3, float("nan"), 1.0)),
        ("uniform", (3, np.finfo(np.float32).max, np.finfo(np.float32).max)),
        ("gaussian", (3, 0.0, 0.0)),
        ("gaussian", (3, 0.0, float("nan"))),
        ("bernoulli", (3, 1.5)),
        ("bernoulli", (3, -0.1)),
    ],
)
def test_impossible_numbers_are_refused(kind, arguments):
    with pytest.raises(InputError, match=r"give|lower"):
        draw(CaffeRNG(0), kind, *arguments)


def test_process_wide_generator():
    set_random_seed(-1)  # Caffe's seed is an unsigned int
    assert np.array_equal(caffe_rng().words(5), CaffeRNG(2**32 - 1).words(5))
    set_random_seed(3)
    assert np.array_equal(caffe_rng().words(3), CaffeRNG(3).words(3))
    assert caffe_rng() is caffe_rng()
    assert CaffeRNG().state() != CaffeRNG().state()


def recorded_fillers(net: str) -> dict[str, FillerParameter]:
    """The filler of each parameter, by `LAYER/INDEX`."""
    found = {}
    for layer in text_format.Parse(net, NetParameter()).layer:
        for field, value in layer.ListFields():
            if field.name in ("convolution_param", "inner_product_param"):
                found[f"{layer.name}/0"] = value.weight_filler
                found[f"{layer.name}/1"] = value.bias_filler
    return found


@pytest.mark.parametrize(
    "case", [c for c in RECORDED if c["name"].startswith("filler/")], ids=lambda c: c["name"]
)
def test_recorded_filler(case):
    fillers = recorded_fillers(case["net"])
    rng = CaffeRNG(case["seed"])
    with np.load(GOLDEN / "rng.npz") as arrays:
        for name in case["arrays"]:
            expected = arrays[f"{case['name']}/{name}"]
            got = fill(expected.shape, fillers[name], rng)
            assert got.shape == expected.shape and got.dtype == np.float32
            assert np.array_equal(bits(got), bits(expected)), name


@pytest.mark.parametrize("side", range(1, 9))
def test_bilinear_is_the_outer_product_of_a_ramp(side):
    filled = fill((2, 3, side, side), FillerParameter(type="bilinear"), CaffeRNG(0))
    factor = (side + 1) // 2
    ramp = 1 - np.abs(np.arange(side) / factor - (side - 1) / (2 * factor))
    assert np.allclose(filled, np.outer(ramp, ramp), rtol=1e-6, atol=1e-7)
    assert np.array_equal(filled, np.broadcast_to(filled[0, 0], filled.shape))


@pytest.mark.parametrize(
    ("shape", "settings", "told"),
    [
        ((3, 2), {"type": "xaviour"}, "xaviour"),
        ((3, 0), {"type": "constant"}, "holds no values"),
        ((8, 4), {"type": "bilinear"}, "(8, 4)"),
        ((8, 4, 3, 5), {"type": "bilinear"}, "(8, 4, 3, 5)"),
        ((), {"type": "xavier"}, "without axes"),
        ((3, 2), {"type": "uniform", "min": 2}, "uniform numbers from 2 to 1"),
        ((3, 2), {"type": "gaussian", "std": 0}, "std above 0"),
        ((3, 2), {"type": "gaussian", "sparse": 4}, "sparse 4"),
        ((3, 2), {"type": "gaussian", "sparse": -2}, "sparse -2"),
        ((3, 2), {"type": "msra", "sparse": 1}, "sparse"),
    ],
)
def test_impossible_fillers_are_refused(shape, settings, told):
    with pytest.raises(InputError) as error:
        fill(shape, FillerParameter(**settings), CaffeRNG(0))
    message = str(error.value)
    assert told in message and settings["type"] in message and "\n" not in message


@pytest.mark.parametrize("kind", FILLERS)
def test_fillers_take_any_number_of_axes(kind):
    shapes = [(5,), (5, 3), (2, 3, 4), (2, 3, 4, 5, 2)]
    fewer = {"bilinear": [(2, 3, 4, 4)], "diagonal": shapes[:3]}  # they read Caffe's four axes
    for shape in fewer.get(kind, shapes):
        filled = fill(shape, FillerParameter(type=kind), CaffeRNG(1))
        assert filled.shape == shape and filled.dtype == np.float32 and filled.flags.writeable
