"""Caffe's seven learning rate policies, as functions of the solver's settings and the iteration.

The precision of each step is Caffe's (sgd_solver.cpp): float settings; powers of an integer exponent are
taken in double, those of a float exponent in float; the rate itself is a float.
"""

from collections.abc import Callable

import numpy as np

from prototxt.caffe_pb2 import SolverParameter
from prototxt.errors import InputError

F = np.float32


def learning_rate(solver: SolverParameter, iteration: int, current_step: int = 0) -> tuple[np.float32, int]:
    """The rate of an iteration.

    Args:
        solver: `lr_policy`, `base_lr`, `gamma`, `power`, `stepsize`, `stepvalue` and `max_iter` are read.
        iteration: from 0.
        current_step: how many steps are passed. `multistep` counts them as it goes, at most one an iteration,
            so a resumed run must bring it along (a .solverstate holds it).

    Returns:
        The rate, and the new `current_step`.

    Raises:
        InputError: where `check_policy` does.
    """
    check_policy(solver)
    return POLICIES[solver.lr_policy](solver, iteration, current_step)


def check_policy(solver: SolverParameter) -> None:
    """Raises InputError for an unknown policy, or a setting that it cannot work with."""
    policy = solver.lr_policy
    if policy not in POLICIES:
        raise InputError(f'lr_policy: "{policy}" is unknown: use one of {", ".join(POLICIES)}')
    if policy in ("step", "sigmoid") and solver.stepsize <= 0:
        raise InputError(f'stepsize: {solver.stepsize} must be above 0 with lr_policy "{policy}"')
    if policy not in ("fixed", "poly") and not solver.gamma >= 0:
        raise InputError(f'gamma: {solver.gamma:g} must not be below 0 with lr_policy "{policy}"')
    if policy == "poly" and solver.max_iter <= 0:
        raise InputError(f'max_iter: {solver.max_iter} must be above 0 with lr_policy "poly"')


def _fixed(solver: SolverParameter, iteration: int, step: int) -> tuple[np.float32, int]:
    return F(solver.base_lr), step


def _step(solver: SolverParameter, iteration: int, step: int) -> tuple[np.float32, int]:
    step = iteration // solver.stepsize
    return _decayed(solver, step), step


def _exp(solver: SolverParameter, iteration: int, step: int) -> tuple[np.float32, int]:
    return _decayed(solver, iteration), step


def _inv(solver: SolverParameter, iteration: int, step: int) -> tuple[np.float32, int]:
    return F(solver.base_lr) * _power(F(1) + F(solver.gamma) * F(iteration), -solver.power), step


def _multistep(solver: SolverParameter, iteration: int, step: int) -> tuple[np.float32, int]:
    if step < len(solver.stepvalue) and iteration >= solver.stepvalue[step]:
        step += 1
    return _decayed(solver, step), step


def _poly(solver: SolverParameter, iteration: int, step: int) -> tuple[np.float32, int]:
    left = F(1) - F(iteration) / F(solver.max_iter)
    return F(solver.base_lr) * _power(left, solver.power), step


def _sigmoid(solver: SolverParameter, iteration: int, step: int) -> tuple[np.float32, int]:
    with np.errstate(over="ignore"):
        growth = np.exp(-F(solver.gamma) * (F(iteration) - F(solver.stepsize)))
    return F(solver.base_lr) * (F(1) / (F(1) + growth)), step


def _decayed(solver: SolverParameter, times: int) -> np.float32:
    return F(solver.base_lr * np.float64(solver.gamma) ** times)


def _power(base: np.float32, exponent: float) -> np.float32:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return F(np.float64(base) ** exponent)


POLICIES: dict[str, Callable[[SolverParameter, int, int], tuple[np.float32, int]]] = {
    "fixed": _fixed,
    "step": _step,
    "exp": _exp,
    "inv": _inv,
    "multistep": _multistep,
    "poly": _poly,
    "sigmoid": _sigmoid,
}
