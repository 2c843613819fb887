"""What Caffe says while it upgrades nets and solvers of older forms (upgrade_proto.cpp)."""

from port.training.caffe_log import CaffeLog
from prototxt.caffe_pb2 import NetParameter, SolverParameter
from prototxt.upgrade import needed_upgrades

_ATTEMPT = "Attempting to upgrade input file specified using deprecated "
_SUCCESS = "Successfully upgraded file specified using deprecated "
_FUTURE = "Note that future Caffe releases will "

Line = tuple[str, str, str]
"""Severity, place, message; `{}` stands for the file."""

_NET_LINES: dict[str, tuple[Line, ...]] = {
    "v0": (
        ("I", "upgrade_proto.cpp:28", f"{_ATTEMPT}V0LayerParameter: {{}}"),
        ("I", "upgrade_proto.cpp:36", f"{_SUCCESS}V0LayerParameter"),
        (
            "W",
            "upgrade_proto.cpp:39",
            f"{_FUTURE}not support V0NetParameter; use ./build/tools/upgrade_net_proto_text for prototxt and "
            "./build/tools/upgrade_net_proto_binary for model weights upgrade this and any other net protos to "
            "the new format.",
        ),
    ),
    "data": (
        ("I", "upgrade_proto.cpp:46", f"{_ATTEMPT}transformation parameters: {{}}"),
        ("I", "upgrade_proto.cpp:49", f"{_SUCCESS}data transformation parameters."),
        (
            "W",
            "upgrade_proto.cpp:51",
            f"{_FUTURE}only support transform_param messages for transformation fields.",
        ),
    ),
    "v1": (
        ("I", "upgrade_proto.cpp:55", f"{_ATTEMPT}V1LayerParameter: {{}}"),
        ("I", "upgrade_proto.cpp:63", f"{_SUCCESS}V1LayerParameter"),
    ),
    "input": (
        ("I", "upgrade_proto.cpp:69", f"{_ATTEMPT}input fields: {{}}"),
        ("I", "upgrade_proto.cpp:72", f"{_SUCCESS}input fields."),
        ("W", "upgrade_proto.cpp:74", f"{_FUTURE}only support input layers and not input fields."),
    ),
    "batch norm": (
        ("I", "upgrade_proto.cpp:79", "Attempting to upgrade batch norm layers using deprecated params: {}"),
        ("I", "upgrade_proto.cpp:82", "Successfully upgraded batch norm layers using deprecated params."),
    ),
}

_SOLVER_LINES: tuple[Line, ...] = (
    ("I", "upgrade_proto.cpp:1084", f"{_ATTEMPT}'solver_type' field (enum)': {{}}"),
    ("I", "upgrade_proto.cpp:1091", f"{_SUCCESS}'solver_type' field (enum) to 'type' field (string)."),
    ("W", "upgrade_proto.cpp:1093", f"{_FUTURE}only support 'type' field (string) for a solver's type."),
)


def log_net_upgrades(log: CaffeLog, net: NetParameter, path: str) -> None:
    """Say what is upgraded of a net. `net`: as it stands in the file `path`."""
    for upgrade in needed_upgrades(net):
        _say(log, _NET_LINES[upgrade], path)


def log_solver_upgrade(log: CaffeLog, solver: SolverParameter, path: str) -> None:
    """Say whether a solver's type is upgraded. `solver`: as it stands in the file `path`."""
    if solver.HasField("solver_type"):
        _say(log, _SOLVER_LINES, path)


def _say(log: CaffeLog, lines: tuple[Line, ...], path: str) -> None:
    for severity, place, message in lines:
        log(place, message.format(path), severity)
