"""Which nets a solver prototxt names, for training and for testing (InitTrainNet, InitTestNets)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from prototxt.caffe_pb2 import TEST, TRAIN, NetParameter, NetState, SolverParameter
from prototxt.errors import InputError
from prototxt.read import read_net
from prototxt.upgrade import upgrade_net


@dataclass(frozen=True)
class NetSource:
    """One net to build.

    Attributes:
        net: its path, or the message itself where it stands in the solver prototxt.
        state: Caffe's NetState, merged: the phase's own, the net's, the solver's.
        stages: those of its stages that the solver adds to the net's own.
        place, origin: what Caffe's log says of where it comes from.
    """

    net: str | NetParameter
    state: NetState
    stages: tuple[str, ...]
    place: str
    origin: str

    @property
    def phase(self) -> int:
        return self.state.phase

    @property
    def level(self) -> int:
        return self.state.level

    def message(self) -> NetParameter:
        """The whole net, its state merged."""
        net = _message(self.net)
        net.state.CopyFrom(self.state)
        return net


_TRAIN_FIELDS = {
    "train_net_param": ("solver.cpp:88", "Creating training net specified in train_net_param."),
    "train_net": ("solver.cpp:92", "Creating training net from train_net file: "),
    "net_param": ("solver.cpp:97", "Creating training net specified in net_param."),
    "net": ("solver.cpp:102", "Creating training net from net file: "),
}


def train_source(solver: SolverParameter, where: str) -> NetSource:
    """The training net.

    Raises:
        InputError: none or more than one is named, or its file cannot be read.
    """
    given = [field for field in _TRAIN_FIELDS if solver.HasField(field)]
    if len(given) != 1:
        what = (
            "names no training net" if not given else f"names {len(given)} training nets: {', '.join(given)}"
        )
        raise InputError(f"{where}: {what}: give one of net, net_param, train_net, train_net_param")
    place, origin = _TRAIN_FIELDS[given[0]]
    net = _inline_or_path(getattr(solver, given[0]), where)
    return _source(net, TRAIN, [solver.train_state], place, origin + (net if isinstance(net, str) else ""))


def test_sources(solver: SolverParameter, where: str) -> list[NetSource]:
    """The test nets: `test_net_param`, `test_net`, then the generic net for what is left of `test_iter`.

    Raises:
        InputError: `test_iter`, `test_state` or `test_interval` do not fit them.
    """
    nets = [(_inline_or_path(net, where), "test_net_param") for net in solver.test_net_param]
    nets += [(path, f"test_net file: {path}") for path in solver.test_net]
    generic = solver.HasField("net") or solver.HasField("net_param")
    spare = len(solver.test_iter) - len(nets)
    if spare < 0 or (spare and not generic):
        raise InputError(
            f"{where}: {len(solver.test_iter)} test_iter for {len(nets)} test nets: give one for each"
        )
    if solver.HasField("net_param"):
        nets += [(_inline_or_path(solver.net_param, where), "net_param")] * spare
    else:
        nets += [(solver.net, f"net file: {solver.net}")] * spare
    if solver.test_state and len(solver.test_state) != len(nets):
        raise InputError(
            f"{where}: {len(solver.test_state)} test_state for {len(nets)} test nets: give none or one each"
        )
    if nets and solver.test_interval <= 0:
        raise InputError(f"{where}: test_interval: must be above 0 where there are test nets")
    states = solver.test_state or [NetState()] * len(nets)
    return [
        _source(net, TEST, [state], "solver.cpp:190", f"Creating test net (#{i}) specified by {origin}")
        for i, ((net, origin), state) in enumerate(zip(nets, states, strict=True))
    ]


def _source(
    net: str | NetParameter, phase: int, states: Sequence[NetState], place: str, origin: str
) -> NetSource:
    own = _message(net).state
    merged = NetState(phase=phase)
    for state in (own, *states):
        merged.MergeFrom(state)
    stages = tuple(merged.stage[len(own.stage) :])
    return NetSource(net, merged, stages, place, origin)


def _inline_or_path(net: str | NetParameter, where: str) -> str | NetParameter:
    return net if isinstance(net, str) else upgrade_net(_message(net), where)


def _message(net: str | os.PathLike | NetParameter) -> NetParameter:
    if not isinstance(net, NetParameter):
        return read_net(net)
    copy = NetParameter()
    copy.CopyFrom(net)
    return copy
