"""How a command ends when it cannot go on: one line on stderr, whatever happened."""

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence

import typer

from prototxt.errors import InputError, printable, shortened
from prototxt.native_output import keep_own_stderr

BAD_INPUT, FAULT, INTERRUPTED = 2, 3, 130
"""Exit statuses: the user's to correct; ours; stopped by Ctrl-C or SIGTERM (128 + SIGINT, as shells have it)."""

TRACEBACK = "--traceback"


class Stopped(BaseException):
    """Ctrl-C or SIGTERM: apart from KeyboardInterrupt, of which typer makes an "Aborted." of its own."""


def run_command(app: Callable[[], object]) -> None:
    """Run `app` and exit; what it raises becomes one line and an exit status.

    An InputError is 2, as are memory that does not suffice and output that cannot be written; Ctrl-C and
    SIGTERM are 130; anything else is a fault of this project: 3, and the full report is written to a file.
    With `--traceback` among the arguments a fault is raised as it is.
    """
    show_faults = TRACEBACK in sys.argv[1:]
    if show_faults:
        sys.argv.remove(TRACEBACK)
    open_closed_streams()
    keep_own_stderr()
    # Matplotlib warns of each character of a name that its font lacks.
    warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = _run(app)
    except (KeyboardInterrupt, Stopped):
        status = _tell(
            "interrupted: nothing is left half written; what was finished before is kept", INTERRUPTED
        )
    except InputError as error:
        status = _tell(str(error), BAD_INPUT)
    except Exception as error:
        if show_faults and _known(error) is None:
            raise
        status = tell_error(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _drop_output()  # of a command that has failed: its line tells more than this would
    sys.exit(status)


def open_closed_streams() -> None:
    """Give a closed stdin, stdout or stderr (`>&-`) to /dev/null: the next file that is opened would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (until the process ends)


def run_typer(app: typer.Typer, arguments: Sequence[str] | None = None, name: str | None = None) -> None:
    """Run a typer app, with `sys.argv` unless `arguments` are given; it ends as `run_command` expects.

    Args:
        name: of the program, for the help; by default what was typed.

    Raises:
        InputError: a wrong option or argument, in one line, where typer would draw a box of five.
        SystemExit: every other end.
    """
    try:
        status = app(arguments, prog_name=name, standalone_mode=False)
    except _CLICK_ERROR as error:
        told = error.format_message().rstrip(". ")
        if type(error).__name__ == "NoArgsIsHelpError":
            print(told, end="")  # typer has printed it where it has rich
            sys.exit(BAD_INPUT)
        command = error.ctx.command_path if getattr(error, "ctx", None) else name or "seenet"
        end = " " if told.endswith("?") else ": "
        raise InputError(f"{told}{end}{command} --help tells what there is") from None
    except typer.Abort as aborted:  # of an EOFError
        raise aborted.__cause__ or aborted from None
    sys.exit(status if isinstance(status, int) else 0)


_CLICK_ERROR = typer.BadParameter.__mro__[2]
"""click's ClickException, which newer versions of typer keep in a private module."""


def tell_error(error: Exception) -> int:
    """Tell in one line of what no command expects; the exit status that goes with it."""
    known = _known(error)
    return _tell(_fault(error), FAULT) if known is None else _tell(known, BAD_INPUT)


def _run(app: Callable[[], object]) -> int:
    """The exit status with which `app` ends by itself, its output written."""
    try:
        app()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # as `… | head` does: nobody wants the rest
    return status


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    raise Stopped


def _known(error: Exception) -> str | None:
    """The line for what is neither bad input nor a fault: memory, output, and files that no code of ours expects.

    (A file may vanish between two looks at it, its name may be too long, its folder closed to this user.)
    """
    # PyTorch's by name: it takes a second to import, and most commands do without.
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or of_torch:
        told = str(error).splitlines()[0] if str(error) else "nothing more is known"
        return f"memory does not suffice ({told}): give a smaller input or batch, or free some"
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is not None:
            return f"{_file(error.filename)}: cannot be used ({error.strerror}): check the path"
        _drop_output()
        return f"the output cannot be written ({error.strerror}): free some space, or send it elsewhere"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object[:200]}: its name is no UTF-8, which is needed here: rename it"
    return None


def _file(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(name)


def _drop_output() -> None:
    """Let what still waits for stdout go nowhere: Python would try once more at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):  # not a real file, as in tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fault(error: Exception) -> str:
    command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    told = " ".join(str(error).split())[:200]
    return (
        f"{type(error).__name__}: {told}, in: {command}: this is a fault of ours, "
        f"{_report(command, error)}; {TRACEBACK} shows it"
    )


def _report(command: str, error: Exception) -> str:
    """Where the full report is."""
    try:
        handle, path = tempfile.mkstemp(prefix="seenet-report-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{command}\n\n")
            traceback.print_exception(error, file=file)
    except OSError as failed:
        return f"the full report cannot be written ({failed.strerror})"
    return f"the full report is {path}"


def _tell(line: str, status: int) -> int:
    with contextlib.suppress(OSError):  # stderr is gone too
        print(f"error: {shortened(printable(line))}", file=sys.stderr)
    return status
