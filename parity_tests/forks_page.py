"""The tables of forks and their layers, in docs/forks.md and README.md, from prototxt/forks.py and the recordings.

python -m parity_tests.forks_page     # writes both anew; a test holds them equal to this
"""

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import prototxt.layers  # noqa: F401  (declares the layers)
from parity_tests.recordings import added, recorded
from prototxt import parse_net
from prototxt.forks import FORK_TYPES, FORKS, HARMLESS, SUPPORTED_FIELDS
from prototxt.layers.declare import LAYER_TYPES
from prototxt.layers.planned import PLANNED_ONLY

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "forks.md", ROOT / "README.md"
BEGIN, END = "<!-- forks: made by parity_tests.forks_page -->\n", "<!-- forks: end -->\n"
_SHORT = (
    *(
        "SSD",
        "Faster R-CNN",
        "R-FCN",
        "DeepLab v1",
        "DeepLab v2",
        "PSPNet",
        "SegNet",
        "HED",
        "DeconvNet",
        "CRF-RNN",
    ),
    *("NVCaffe", "Intel", "SENet", "FlowNet2", "C3D", "caffe_ocr"),
)
"""Forks that the README's table has."""

_HEAD = """# Forks of Caffe: what is known of them, and what runs here

Made from `prototxt/forks.py` and the recordings by `python -m parity_tests.forks_page`; a test holds this page to them.

A fork's own code was built and run, and what it computed was recorded, for the layers that say so ({cases} cases, and
whole nets: {nets}). The others' forks compute on GPUs only, or could not be run: their rule comes from the published
code, both engines are written from it independently, gradients are held against differences, and small cases were
worked out by hand (`parity_tests/test_fork_rules.py`, `test_published_rules.py`). No tolerance is wider for them.

A type that is missing here can be added by a class of your own: [own_layers.md](own_layers.md).
"""


@cache
def recorded_types() -> Counter[str]:
    """How many recorded cases each layer type has."""
    cases = [*recorded("fork_layers")[0], *recorded("deeplab_layers")[0]]
    cases += [case for name in added("layers") for case in recorded(name)[0]]
    types: Counter[str] = Counter()
    for case in cases:
        types.update({layer.type for layer in parse_net(case["prototxt"]).layer if layer.type in FORK_TYPES})
    return types


def page() -> str:
    """The whole of docs/forks.md."""
    nets = ", ".join(case["name"] for case in recorded("fork_nets")[0])
    missing = {
        fork: [name for name in _types(fork) if not _runs(name)] for fork in sorted(FORKS, key=str.lower)
    }
    return "\n".join(
        [
            _HEAD.format(cases=len(recorded("fork_layers")[0]), nets=nets),
            "## Layer types that run",
            "",
            *_table(
                ("type", "forks", "recorded cases"),
                (
                    (f"`{name}`", ", ".join(FORK_TYPES[name]), _cases(name))
                    for name in _by_name(FORK_TYPES)
                    if _runs(name)
                ),
            ),
            "",
            "## Forks",
            "",
            *_table(
                ("fork", "repositories", "types that run", "of them recorded"),
                ((fork, FORKS[fork], *_counts(fork)) for fork in missing),
            ),
            "",
            "## Fields that forks added to BVLC's messages",
            "",
            "These are obeyed, by the layer types named. Others are refused by name, where their layer is needed.",
            "",
            *_table(
                ("field", "layer types"),
                (
                    (f"`{field}`", ", ".join(types) or "all")
                    for field, types in sorted(SUPPORTED_FIELDS.items())
                ),
            ),
            "",
            "These set precision, speed, memory or what is printed, and change nothing here: "
            + ", ".join(f"`{name}`" for name in sorted(HARMLESS))
            + ".",
            "",
            "## Layer types that are known and do not run",
            "",
            "A net with one of these in the selected phase can be planned all the same, and says why it stops when it",
            "is set up:",
            "",
            *_table(("type", "why"), ((f"`{name}`", why) for name, why in PLANNED_ONLY.items())),
            "",
            "All of them:",
            "",
            *_table(
                ("fork", "types"),
                (
                    (fork, ", ".join(f"`{name}`" for name in names))
                    for fork, names in missing.items()
                    if names
                ),
            ),
            "",
        ]
    )


def short_table() -> str:
    """The README's table."""
    rows = [(fork, *_counts(fork)) for fork in _SHORT]
    runs = [name for name in FORK_TYPES if _runs(name)]
    told = sum(name in recorded_types() for name in runs)
    return "\n".join(
        [
            *_table(("fork", "layer types that run", "of them recorded"), rows),
            "",
            f"In all {len(runs)} layer types of {len(FORKS)} forks, {told} of them held against what the forks' own",
            'code computed; the others say "not recorded". [docs/forks.md](docs/forks.md) lists them, and the fields.',
            "A type that is missing is [a class of your own](docs/own_layers.md).",
            "",
        ]
    )


def with_table(readme: str) -> str:
    """The README's text with its table made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + short_table() + "\n" + END + after


def _runs(name: str) -> bool:
    return name in LAYER_TYPES and name not in PLANNED_ONLY


def _types(fork: str) -> list[str]:
    return [name for name in _by_name(FORK_TYPES) if fork in FORK_TYPES[name]]


def _by_name(names: Iterable[str]) -> list[str]:
    return sorted(names, key=str.lower)


def _cases(name: str) -> str:
    count = recorded_types()[name]
    return str(count) if count else "not recorded"


def _counts(fork: str) -> tuple[str, str]:
    names = _types(fork)
    runs = [name for name in names if _runs(name)]
    return f"{len(runs)} of {len(names)}", str(sum(name in recorded_types() for name in runs))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, ("---",) * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    """Write the page and the table."""
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
