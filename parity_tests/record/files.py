"""What a recorded case begins with, and how it is written."""

from __future__ import annotations  # genuine Caffe may run on an older Python

import json
import os
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np


def inputs_of(args: Namespace, shapes: dict[str, tuple[int, ...]], batches: int = 0) -> dict[str, np.ndarray]:
    """Values for a net's inputs, float32: from `--inputs`, else standard normal, or whole numbers where `--below`.

    Args:
        shapes: by blob name.
        batches: so many of each, along a new first axis; 0: one, without it.

    Raises:
        ValueError: an input that the net does not have, or of another shape.
    """
    random = np.random.RandomState(args.seed)
    given = dict(np.load(args.inputs)) if args.inputs else {}
    below = dict(_below(text) for text in args.below)
    for name in [*given, *below]:
        if name not in shapes:
            raise ValueError(f'no input "{name}": this net has {", ".join(shapes)}')
    values = {}
    for name, own in shapes.items():
        shape = (batches, *own) if batches else own
        if name in given:
            if given[name].shape != shape:
                raise ValueError(f'{args.inputs}: "{name}" must be of shape {shape}, not {given[name].shape}')
            values[name] = given[name]
        elif name in below:
            values[name] = random.randint(0, below[name], shape)
        else:
            values[name] = random.standard_normal(shape)
    return {name: np.asarray(value, np.float32) for name, value in values.items()}


def _below(text: str) -> tuple[str, int]:
    name, _, number = text.rpartition("=")
    if not name or not number.isdigit() or int(number) < 1:
        raise ValueError(f"--below {text}: must be BLOB=N, N at least 1")
    return name, int(number)


def recorded_by(caffe: ModuleType) -> dict[str, str]:
    """Which Caffe a case comes from."""
    return {"module": caffe.__name__, "version": str(getattr(caffe, "__version__", ""))}


def write_case(folder: Path, case: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write NAME.npz and NAME.json; the arrays' names begin with the case's.

    Raises:
        ValueError: a name that is no file's, or values that are not finite.
    """
    name = case["name"]
    if not name or Path(name).name != name:
        raise ValueError(f'--name "{name}" must be a file name without folders')
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{key} is not finite: a recording cannot be held against it; choose other inputs"
            )
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f"{name}.npz.part"
    with open(half, "wb") as file:
        np.savez_compressed(file, **{f"{name}/{key}": array for key, array in arrays.items()})
    os.replace(half, folder / f"{name}.npz")
    half = folder / f"{name}.json.part"
    half.write_text(json.dumps([case], indent=1) + "\n")
    os.replace(half, folder / f"{name}.json")
    print(f"{folder / name}.json, .npz: {len(arrays)} arrays")
