"""Training as Caffe's Solver does it: step, solve, test, snapshot, restore (solver.cpp, sgd_solver.cpp)."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from port.ranks import (
    all_ranks,
    average_gradients,
    broadcast,
    first_ranks,
    solver_count,
    solver_rank,
)
from port.training.caffe_log import CaffeLog, number
from port.training.net import Output
from port.training.rate_policies import check_policy, learning_rate
from port.training.snapshots import SnapshotNames, check_prefix, read_snapshot, write_snapshot
from port.training.solver_nets import NetSource, test_sources, train_source
from port.training.solvers import CaffeSolver, make_solver
from port.training.upgrade_log import log_net_upgrades
from prototxt.caffe_pb2 import NetParameter, SolverParameter
from prototxt.errors import InputError
from prototxt.plan import Plan
from prototxt.read import read_net_as_it_is
from prototxt.text import message_text
from runtime.rng import caffe_rng, set_random_seed
from weights import LayerWeights, SolverSnapshot
from weights.layer_weights import check_finite

F = np.float32


class TrainableNet(Protocol):
    """What a solver asks of a net."""

    plan: Plan
    debug: bool

    def log_layers(self, net: NetParameter) -> None: ...

    def learnable(self) -> list[dict[str, Any]]: ...

    def clear_param_diffs(self) -> None: ...

    def copy_from(self, path: str) -> None: ...

    def share_with(self, other: Any) -> None: ...

    def layer_weights(self, owners_only: bool = False) -> list[LayerWeights]: ...

    def forward(self) -> np.float32: ...

    def forward_backward(self) -> np.float32: ...

    def outputs(self) -> list[Output]: ...

    def first_wrong(self) -> str: ...

    def stateful(self) -> dict[str, Any]: ...


class Solver:
    """One run of training.

    Args:
        param: as `read_solver` gives it.
        make_net: builds a net where the solver says so: the order of building is the order of random draws.
        where: the solver's file, for messages.
        action: asked after every iteration and before every test pass: "stop", "snapshot" or "none".
        observe: told ("train" or "test K", iteration, {name: value}) after every iteration and test phase.

    Attributes:
        net, test_nets: what `make_net` gave.
        optimizer: the `port.training.solvers.CaffeSolver`.
        callbacks: pairs of functions, called before an iteration's first pass and before its update.
        iteration: how many updates are done.

    Raises:
        InputError: a setting out of range, a net that cannot be built, a prefix that cannot be written to.
    """

    def __init__(
        self,
        param: SolverParameter,
        make_net: Callable[[NetSource], TrainableNet],
        *,
        log: CaffeLog,
        where: str = "solver",
        action: Callable[[], str] = lambda: "none",
        observe: Callable[[str, int, dict[str, float]], None] = lambda kind, iteration, values: None,
    ):
        self.param, self.log, self.where, self.action, self.observe = param, log, where, action, observe
        self.iteration = self._current_step = 0
        self.callbacks: list[tuple[Callable[[], Any], Callable[[], Any]]] = []
        self._stopping = self._snapshot_asked = False
        self._displayed_at, self._displayed = 0, time.monotonic()
        self._losses: list[np.float32] = []
        self._smoothed = F(0)
        log("solver.cpp:45", f"Initializing solver from parameters: \n{message_text(param)}")
        check_solver(param, where)
        if param.snapshot and solver_rank() == 0:
            check_prefix(param.snapshot_prefix)
        if param.random_seed >= 0:
            set_random_seed(param.random_seed + solver_rank())
        self.net = self._build(train_source(param, where), make_net)
        self.test_nets = [self._build(source, make_net) for source in test_sources(param, where)]
        for test_net in self.test_nets:
            test_net.debug = param.debug_info
        self.optimizer: CaffeSolver = make_solver(param, self.net.learnable())
        log("solver.cpp:57", "Solver scaffolding done.")

    def _build(self, source: NetSource, make_net: Callable[[NetSource], TrainableNet]) -> TrainableNet:
        self.log(source.place, source.origin)
        if isinstance(source.net, str):
            log_net_upgrades(self.log, read_net_as_it_is(source.net), source.net)
        net = make_net(source)
        net.log_layers(source.message())
        for paths in self.param.weights:
            for path in map(str.strip, paths.split(",")):
                self.log("solver.cpp:72", f"Finetuning from {path}")
                net.copy_from(path)
        return net

    # ---- training

    def solve(self, iterations: int | None = None) -> None:
        """Train to `max_iter` (or for so many iterations, the schedule unchanged), snapshot, show and test.

        Raises:
            InputError: a loss that is not finite, an image that cannot be read, a snapshot that cannot be
                written.
        """
        param = self.param
        self.log("solver.cpp:289", f"Solving {self.net.plan.name}")
        self.log("solver.cpp:290", f"Learning Rate Policy: {param.lr_policy}")
        self._stopping = False
        if param.snapshot_after_train and solver_rank() == 0:
            check_prefix(param.snapshot_prefix)  # now, where Caffe would find out after training
        broadcast(self._weights())
        start, left = self.iteration, param.max_iter - self.iteration
        self.step(left if iterations is None else min(left, iterations))
        if param.snapshot_after_train and not (param.snapshot and self.iteration % param.snapshot == 0):
            self.snapshot()
        if self._stopping:
            self.log("solver.cpp:311", "Optimization stopped early.")
            return
        if self._due(param.display):
            self._smooth(self.net.forward(), start)
            self.log("solver.cpp:327", f"Iteration {self.iteration}, loss = {number(self._smoothed)}")
        if self._due(param.test_interval) and solver_rank() == 0:
            self.test_all()
        self.log("solver.cpp:332", "Optimization Done.")

    def step(self, iterations: int) -> None:
        """So many iterations, with the tests, lines and snapshots that fall due; raises as `solve` does."""
        param, start = self.param, self.iteration
        self._losses, self._smoothed = [], F(0)
        self._displayed = time.monotonic()
        while self.iteration < start + iterations:
            self.net.clear_param_diffs()
            if self._due(param.test_interval) and (self.iteration > 0 or param.test_initialization):
                if solver_rank() == 0:
                    self.test_all()
                self._stopping = first_ranks(self._stopping)
                if self._stopping:
                    return
            for on_start, _ in self.callbacks:
                on_start()
            display = self._due(param.display)
            self.net.debug = display and param.debug_info
            loss = self._accumulate()
            self._smooth(loss, start)
            if display:
                self._display()
            for _, on_gradients_ready in self.callbacks:
                on_gradients_ready()
            average_gradients(self._weights())
            rate = self.apply_update()
            self.observe("train", self.iteration, {"loss": float(loss), "lr": float(rate)})
            request = first_ranks(self._request())
            if self._due(param.snapshot) or request == "snapshot":
                self.snapshot()
            if request == "stop":
                self._stopping = True
                return

    def apply_update(self) -> np.float32:
        """Change the weights by the gradients at hand; returns the rate."""
        rate, step = learning_rate(self.param, self.iteration, self._current_step)
        if self.param.lr_policy == "multistep" and step != self._current_step:
            self.log("sgd_solver.cpp:50", f"MultiStep Status: Iteration {self.iteration}, step = {step}")
        self._current_step = step
        if self._due(self.param.display):
            self.log("sgd_solver.cpp:112", f"Iteration {self.iteration}, lr = {number(rate)}")
        self.optimizer.set_rate(float(rate))
        self.optimizer.step()
        if self.optimizer.clipped:
            norm, limit, factor = map(number, self.optimizer.clipped)
            self.log(
                "sgd_solver.cpp:99",
                f"Gradient clipping: scaling down gradients (L2 norm {norm} > {limit}) "
                f"by scale factor {factor}",
            )
        self.iteration += 1
        return rate

    @property
    def rate(self) -> np.float32:
        """The rate of the next update."""
        return learning_rate(self.param, self.iteration, self._current_step)[0]

    def _weights(self) -> list[Tensor]:
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def _accumulate(self) -> np.float32:
        """`iter_size` passes; the mean loss.

        Raises:
            InputError: a loss that is not finite.
        """
        loss = F(0)
        for _ in range(self.param.iter_size):
            one = self.net.forward_backward()
            if not np.isfinite(one):
                raise InputError(
                    f"iteration {self.iteration}: the loss is {number(one)}; not finite first: "
                    f"{self.net.first_wrong()}: training stops, the last snapshot is kept; try a smaller "
                    "base_lr, or clip_gradients"
                )
            loss += one
        return loss / F(self.param.iter_size)

    def _smooth(self, loss: np.float32, start: int) -> None:
        window = self.param.average_loss
        if len(self._losses) < window:
            self._losses.append(loss)
            size = len(self._losses)
            self._smoothed = (self._smoothed * F(size - 1) + loss) / F(size)
        else:
            oldest = (self.iteration - start) % window
            self._smoothed += (loss - self._losses[oldest]) / F(window)
            self._losses[oldest] = loss

    def _display(self) -> None:
        now = time.monotonic()
        lapse = round(now - self._displayed, 3)
        rate = (self.iteration - self._displayed_at) / (lapse or 1)
        self.log(
            "solver.cpp:239",
            f"Iteration {self.iteration} ({number(rate)} iter/s, "
            f"{number(lapse)}s/{self.param.display} iters), loss = {number(self._smoothed)}",
        )
        self._displayed, self._displayed_at = now, self.iteration
        values = [(output, value) for output in self.net.outputs() for value in output.values]
        for i, (output, value) in enumerate(values):
            self.log("solver.cpp:258", f"    Train net output #{i}: {_shown(output, value)}")

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.iteration % interval == 0

    def _request(self) -> str:
        if self._snapshot_asked:
            self._snapshot_asked = False
            return "snapshot"
        return self.action()

    # ---- testing

    def test_all(self) -> None:
        """Test every test net in turn, until a request to stop."""
        for index, net in enumerate(self.test_nets):
            if not self._stopping:
                self._test(index, net)

    def _test(self, index: int, net: TrainableNet) -> None:
        self.log("solver.cpp:347", f"Iteration {self.iteration}, Testing net (#{index})")
        net.share_with(self.net)
        passes = self.param.test_iter[index]
        loss, outputs, scores = F(0), [], []
        for i in range(passes):
            self._heed_requests()
            if self._stopping:
                self.log("solver.cpp:396", "Test interrupted.")
                return
            loss += net.forward()
            outputs = net.outputs()
            if i == 0:
                scores = [output.values.copy() for output in outputs]
            else:
                for score, output in zip(scores, outputs, strict=True):
                    score += output.values
        if self.param.test_compute_loss:
            self.log("solver.cpp:401", f"Test loss: {number(loss / F(passes))}")
        means = [
            (output, value)
            for output, score in zip(outputs, scores, strict=True)
            for value in score / F(passes)
        ]
        for i, (output, value) in enumerate(means):
            self.log("solver.cpp:414", f"    Test net output #{i}: {_shown(output, value)}")
        self.observe(f"test {index}", self.iteration, {output.name: float(value) for output, value in means})

    def _heed_requests(self) -> None:
        while (request := self.action()) != "none":
            if request == "stop":
                self._stopping = True
            elif solver_count() == 1:
                self.snapshot()
            else:
                self._snapshot_asked = True  # all ranks take part in it, and now only the first is here

    # ---- snapshots

    def snapshot(self) -> None:
        """Write the weights, the solver state and our sidecar; every rank takes part, the first one writes.

        Raises:
            InputError: weights that are not finite; a folder that cannot be written to, a full disk.
        """
        hdf5 = self.param.snapshot_format == SolverParameter.HDF5
        ranks = all_ranks({"random": caffe_rng().state(), "data": self._data_states()})
        if solver_rank() != 0:
            return
        names = SnapshotNames.at(self.param.snapshot_prefix, self.iteration, hdf5)
        layers = self.net.layer_weights(owners_only=hdf5)
        check_finite(layers, f"no snapshot at iteration {self.iteration}, the last one is kept")
        if hdf5:
            self.log("solver.cpp:474", f"Snapshotting to HDF5 file {names.model}")
        else:
            self.log("solver.cpp:464", f"Snapshotting to binary proto file {names.model}")
        kind, place = ("HDF5", "sgd_solver.cpp:296") if hdf5 else ("binary proto", "sgd_solver.cpp:284")
        self.log(place, f"Snapshotting solver state to {kind} file {names.state}")
        history = [blob.detach().cpu().numpy() for blob in self.optimizer.history()]
        state = SolverSnapshot(self.iteration, names.model, self._current_step, history)
        sidecar = {"iteration": self.iteration, "type": self.optimizer.type, "ranks": ranks}
        write_snapshot(names, layers, self.net.plan.name, state, sidecar)

    def restore(self, path: str | os.PathLike) -> None:
        """Go on from a .solverstate, ours or genuine Caffe's.

        With our sidecar beside it, the generators and the data layers go on exactly where they stood;
        without, they stand where the seed put them, as in Caffe.

        Raises:
            InputError: a missing or damaged file, one of another net or another type of solver.
        """
        snapshot, sidecar = read_snapshot(path)
        if sidecar and sidecar.get("type") != self.optimizer.type:
            raise InputError(
                f"{os.fspath(path)}: was written by type {sidecar.get('type')}, this solver is "
                f"{self.optimizer.type}: use the solver that it belongs to"
            )
        if sidecar and sidecar.get("iteration") != snapshot.iteration:
            raise InputError(
                f"{os.fspath(path)}: is of iteration {snapshot.iteration}, its sidecar of "
                f"{sidecar.get('iteration')}: remove the sidecar to resume as Caffe does, with fresh seeds"
            )
        if snapshot.learned_net:
            self.net.copy_from(snapshot.learned_net)
        try:
            self.optimizer.load_history(snapshot.history)
            if sidecar:
                self._restore_random(sidecar)
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise InputError(
                f"{os.fspath(path)}: its sidecar does not hold what a sidecar holds "
                f"({type(error).__name__}: {error}): remove it to resume as Caffe does, with fresh seeds"
            ) from error
        self.log("sgd_solver.cpp:336", "SGDSolver: restoring history")
        self.iteration = self.optimizer.iteration = snapshot.iteration
        self._current_step = snapshot.current_step

    def _data_states(self) -> list[dict[str, Any]]:
        """Of each net, where its data layers stand, by layer name."""
        nets = (self.net, *self.test_nets)
        return [{name: layer.state() for name, layer in net.stateful().items()} for net in nets]

    def _restore_random(self, sidecar: dict[str, Any]) -> None:
        if len(sidecar["ranks"]) != solver_count():
            raise InputError(
                f"its sidecar is of {len(sidecar['ranks'])} processes, not {solver_count()}: start as many, "
                "or remove the sidecar to resume as Caffe does, with fresh seeds"
            )
        mine = sidecar["ranks"][solver_rank()]
        layers = [net.stateful() for net in (self.net, *self.test_nets)]
        if [set(states) for states in mine["data"]] != [set(found) for found in layers]:
            raise InputError(
                "its sidecar is of other data layers: remove it to resume as Caffe does, with fresh seeds"
            )
        for found, states in zip(layers, mine["data"], strict=True):
            for name, layer in found.items():
                layer.restore(states[name])
        caffe_rng().restore(mine["random"])


def check_solver(param: SolverParameter, where: str) -> None:
    """Raises InputError for a field out of range, or one that is not supported."""
    at_least: Sequence[tuple[str, int]] = (
        ("average_loss", 1),
        ("iter_size", 1),
        ("display", 0),
        ("max_iter", 0),
        ("snapshot", 0),
        ("test_interval", 0),
    )
    for field, least in at_least:
        if getattr(param, field) < least:
            raise InputError(f"{where}: {field}: {getattr(param, field)} must be at least {least}")
    if any(passes < 1 for passes in param.test_iter):
        raise InputError(f"{where}: test_iter: {min(param.test_iter)} must be at least 1")
    if param.snapshot_diff:
        raise InputError(f"{where}: snapshot_diff: gradients are not written by the port: remove it")
    try:
        check_policy(param)
        make_solver(param, [torch.zeros(1)])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _shown(output: Output, value: np.float32) -> str:
    text = f"{output.name} = {number(value)}"
    if not output.loss_weight:
        return text
    weight = F(output.loss_weight)
    return f"{text} (* {number(weight)} = {number(weight * value)} loss)"
