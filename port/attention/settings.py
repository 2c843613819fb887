"""How attention is computed: what `seenet attention`, the pipeline and the studies pass on."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from port.devices import check_device, check_engine
from prototxt.errors import InputError
from prototxt.files import sha256_of

LABEL_STATES = ("accumulate", "single", "all")


@dataclass(frozen=True)
class AttentionSettings:
    """The network and how it is asked.

    Attributes:
        weights: SeeNet's, in any format that `weights` reads.
        test_size: side of the square to which images are resized, in pixels.
        flip: fuse with the mirrored image's maps.
        label_state: what S_B is told: see `attention_maps`.
        maxt, mint: C-ReLU's thresholds δ_h and δ_l.
        to_bgr: take grey, 16-bit and RGBA images too.
        device: "cpu" or "cuda".
        engine: what computes the convolutions: see `with_engine`.

    Raises:
        InputError: a value that is not possible, named as the command's option.
    """

    weights: Path
    test_size: int = 256
    flip: bool = True
    label_state: str = "accumulate"
    maxt: float = 0.8
    mint: float = 0.0
    to_bgr: bool = False
    device: str = "cpu"
    engine: str = "torch"

    def __post_init__(self) -> None:
        if self.label_state not in LABEL_STATES:
            raise InputError(f'--label-state "{self.label_state}": must be one of {", ".join(LABEL_STATES)}')
        if not 16 <= self.test_size <= 4096:
            raise InputError(f"--test-size {self.test_size}: must be a side of 16 to 4096 pixels")
        check_engine(self.engine)
        check_device(self.device)

    def record(self) -> dict[str, Any]:
        """What the maps depend on, for a folder's `attention.json`."""
        return {
            "weights_sha256": sha256_of(self.weights),
            "test_size": self.test_size,
            "flip": self.flip,
            "label_state": self.label_state,
            "maxt": self.maxt,
            "mint": self.mint,
            "to_bgr": self.to_bgr,
            "engine": self.engine,
        }


def parse_shard(shard: str) -> tuple[int, int]:
    """Which part, from 0, of how many is this process's: the shard's, and of that torchrun's.

    Raises:
        InputError: another form than I/N, or I outside 1 … N.
    """
    told = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", shard)
    if not told or not 1 <= int(told[1]) <= int(told[2]):
        raise InputError(f'--shard "{shard}": must be I/N, with I from 1 to N')
    from port.ranks import from_environment  # which needs torch: a refused option does not

    ranks, rank = from_environment("WORLD_SIZE", 1), from_environment("RANK", 0)
    if rank >= ranks:
        raise InputError(f"RANK={rank} must be below WORLD_SIZE={ranks}: torchrun sets both: unset them")
    return int(told[1]) - 1 + int(told[2]) * rank, int(told[2]) * ranks
