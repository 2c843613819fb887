"""upgrade_net_proto_text, upgrade_net_proto_binary, upgrade_solver_proto_text: files in the current form."""

import os
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from port.tools.process import CheckFailed
from port.training.caffe_log import CaffeLog
from port.training.upgrade_log import log_net_upgrades, log_solver_upgrade
from prototxt.caffe_pb2 import LayerParameter, NetParameter, SolverParameter, V1LayerParameter
from prototxt.errors import InputError
from prototxt.files import read_ordinary
from prototxt.read import read_net_as_it_is, read_solver_as_it_is
from prototxt.text import message_text
from prototxt.upgrade import needed_upgrades, upgrade_net, upgrade_solver_type
from weights.files import atomic_path
from weights.wire import MAX_FILE_BYTES


def net_text(arguments: Sequence[str]) -> int:
    return _run("upgrade_net_proto_text", "v0_net_proto_file_in net_proto_file_out", arguments)


def net_binary(arguments: Sequence[str]) -> int:
    return _run("upgrade_net_proto_binary", "v0_net_proto_file_in net_proto_file_out", arguments)


def solver_text(arguments: Sequence[str]) -> int:
    return _run("upgrade_solver_proto_text", "old_solver_proto_file_in solver_proto_file_out", arguments)


def _run(tool: str, usage: str, arguments: Sequence[str]) -> int:
    log = CaffeLog()
    if len(arguments) != 2:
        log(f"{tool}.cpp:22", f"Usage: {tool} {usage}", "E")
        return 1
    source, target = arguments
    kind = "SolverParameter" if "solver" in tool else "NetParameter"
    form = "binary" if "binary" in tool else "text"
    if not os.path.exists(source):
        place = "io.cpp:54" if form == "binary" else "io.cpp:36"
        raise CheckFailed(place, f"Check failed: fd != -1 (-1 vs. -1) File not found: {source}")
    try:
        message = _read(source, kind, form)
    except InputError as error:
        reason = str(error).removeprefix(source).lstrip(": ")
        log(f"{tool}.cpp:30", f"Failed to parse input {form} file as {kind}: {source}: {reason}", "E")
        return 2
    if not _upgraded(message, source, log):
        log(f"{tool}.cpp:43", f"File already in latest proto format: {source}", "E")
    with atomic_path(target) as beside:
        if form == "binary":
            beside.write_bytes(message.SerializeToString())
        else:
            beside.write_text(message_text(message))
    log(f"{tool}.cpp:{48 if form == 'binary' else 49}", f"Wrote upgraded {kind} {form} proto to {target}")
    return 0


def _read(path: str, kind: str, form: str) -> NetParameter | SolverParameter:
    """The message as it stands in the file; raises InputError where it cannot be read."""
    if kind == "SolverParameter":
        return read_solver_as_it_is(path)
    if form == "text":
        net = read_net_as_it_is(path)
        layers: list[V1LayerParameter | LayerParameter] = [*net.layers, *net.layer]
        unknown = [*net.unknown, *(field for layer in layers for field in layer.unknown)]
        if unknown:
            raise InputError(f"{path}:{unknown[0].line}: Caffe has no field {unknown[0].path}")
        return net
    try:
        return NetParameter.FromString(read_ordinary(path, MAX_FILE_BYTES))
    except (DecodeError, OSError) as error:
        raise InputError(f"{path}: {error}") from error


def _upgraded(message: NetParameter | SolverParameter, path: str, log: CaffeLog) -> bool:
    """Upgrade the message, saying so; False where it is in the current form."""
    if isinstance(message, SolverParameter):
        log_solver_upgrade(log, message, path)
        return upgrade_solver_type(message, path)
    needed = needed_upgrades(message)
    log_net_upgrades(log, message, path)
    upgrade_net(message, path)
    return bool(needed)
