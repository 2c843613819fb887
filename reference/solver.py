"""The name `caffe.SGDSolver` for scripts that only set its attributes."""

import os

from prototxt.errors import InputError


class SGDSolver:
    """Published notebooks set `caffe.SGDSolver.display`; making one is an error: no engine trains yet."""

    display = 0

    def __init__(self, solver_file: str | os.PathLike):
        raise InputError(
            f"{os.fspath(solver_file)}: the reference has no solvers, it runs nets only: use port.pycaffe"
        )
