"""How a tool ends: with its status, or as a failed CHECK of Caffe's does, by SIGABRT."""

import contextlib
import importlib
import os
import resource
import signal
import sys
from collections.abc import Sequence

from port.last_resort import open_closed_streams, tell_error
from port.tools import SCRIPTS, TOOLS
from port.training.caffe_log import CaffeLog
from prototxt.errors import InputError
from prototxt.native_output import keep_own_stderr

NOT_CAFFES = "seenet:0"
"""The place in the log of what Caffe's source does not say."""


class CheckFailed(InputError):
    """A failed CHECK, or LOG(FATAL), of Caffe's.

    Args:
        place: the file and line of Caffe's source that says it, such as "caffe.cpp:258".
    """

    def __init__(self, place: str, message: str):
        super().__init__(message)
        self.place = place


def run_tool(name: str, arguments: Sequence[str]) -> int:
    """Run a tool; whatever is wrong with the input raises InputError. Returns the exit status."""
    module, function = {**TOOLS, **SCRIPTS}[name][0].split(":")
    return getattr(importlib.import_module(module), function)(list(arguments))


def tool_main(name: str, arguments: Sequence[str]) -> int:
    """Run a tool as genuine Caffe's runs; returns its exit status.

    What is wrong with a program's input is a fatal line, and then SIGABRT, so that a shell sees the status of
    a failed CHECK (134); with a script's, a line and status 2. Output into a pipe that nobody reads any more
    ends it by SIGPIPE.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _terminate)
    open_closed_streams()
    keep_own_stderr()
    try:
        return run_tool(name, arguments)
    except InputError as error:
        if name in SCRIPTS:
            print(f"error: {error}", file=sys.stderr)
            return 2
        place = error.place if isinstance(error, CheckFailed) else NOT_CAFFES
        CaffeLog()(place, str(error), severity="F")
        print("*** Check failure stack trace: ***", file=sys.stderr, flush=True)
        abort()
    except KeyboardInterrupt:
        _end_by(signal.SIGINT)
    except _Terminated:
        _end_by(signal.SIGTERM)
    except Exception as error:
        return tell_error(error)
    return 1


class _Terminated(BaseException):
    """SIGTERM: what is half written is removed before the process ends, as with SIGINT."""


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise _Terminated


def _end_by(number: int) -> None:
    """End this process by a signal, as if nothing had caught it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def abort() -> None:
    """End this process by SIGABRT, without a core file."""
    sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGABRT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGABRT)
