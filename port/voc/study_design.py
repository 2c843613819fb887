"""What the studies run, read from a file that is written before they are run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prototxt.errors import InputError
from prototxt.files import read_text

DESIGN = Path(__file__).parent / "studies.json"
"""The design of the published results: docs/studies.md says why it is so, and what came out."""


@dataclass(frozen=True)
class Variant:
    """One of the studies.

    Attributes:
        solver: in `prototxt/shapes/`.
        erases: whether there is an S_B, which reads C-ReLU's thresholds.
        negates: whether C-ReLU negates; if not, δ_l is 0 when attention is taken, too.
        fusion: the rule of the proxy labels.
    """

    solver: str
    erases: bool = True
    negates: bool = True
    fusion: str = "harmonic"

    def thresholds(self, pairs: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        """The pairs (δ_h, δ_l) that attention is taken with."""
        used = pairs if self.erases else pairs[:1]
        return [(high, low if self.negates else 0.0) for high, low in used]


@dataclass(frozen=True)
class Design:
    """What is run, fixed before it is run.

    Attributes:
        sets: by name, the settings of `make_shapes` and `iterations` of each training.
        seeds: of the trainings.
        thresholds: pairs (δ_h, δ_l) that attention is taken with.
        variants: by name.
    """

    sets: Mapping[str, Mapping[str, Any]]
    seeds: Sequence[int]
    thresholds: Sequence[Sequence[float]]
    variants: Mapping[str, Variant]


def read_design(path: Path) -> Design:
    """Read a design.

    Raises:
        InputError: a file that cannot be read, or that is no design.
    """
    try:
        told = json.loads(read_text(path))
        variants = {name: Variant(**own) for name, own in told.pop("variants").items()}
        return Design(variants=variants, **told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a design of studies ({error}): see {DESIGN}") from error
