"""Flags as gflags 2.2 reads and shows them: `-solver x`, `--solver=x`, `-shuffle`, `--noshuffle`."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from port.training.caffe_log import CaffeLog

Value = str | int | bool

WIDTH = 80
"""Columns of the usage text."""

_BOOLEANS = dict.fromkeys(("1", "t", "true", "y", "yes"), True) | dict.fromkeys(
    ("0", "f", "false", "n", "no"), False
)


@dataclass(frozen=True)
class Flag:
    """One flag; its type is its default's."""

    name: str
    default: Value
    help: str = ""

    @property
    def type(self) -> str:
        return {bool: "bool", int: "int32", str: "string"}[type(self.default)]

    def value(self, text: str) -> Value | None:
        """What `text` means, or None where it is no value of this type."""
        if self.type == "bool":
            return _BOOLEANS.get(text.lower())
        return _int32(text) if self.type == "int32" else text


GLOG_FLAGS = (
    Flag("alsologtostderr", False),
    Flag("colorlogtostderr", False),
    Flag("log_dir", ""),
    Flag("logtostderr", False),
    Flag("minloglevel", 0),
    Flag("stderrthreshold", 2),
    Flag("v", 0),
)
"""What glog adds to every program's flags. Lines go to stderr alone: only minloglevel has an effect."""


@dataclass(frozen=True)
class Program:
    """A program's flags, and the file of Caffe's source that defines them."""

    name: str
    source: str
    message: str
    flags: tuple[Flag, ...]

    def usage(self) -> str:
        """What gflags shows: the message, then the flags in alphabetical order."""
        shown = "".join(map(_described, sorted(self.flags, key=lambda flag: flag.name)))
        return f"{self.name}: {self.message}\n\n  Flags from {self.source}:\n{shown}"

    def parse(self, arguments: Sequence[str]) -> tuple[dict[str, Value], list[str]]:
        """The value of each flag, and the other arguments, which may stand between flags.

        Ends the process as gflags does: after an error with status 1, after --help with 1, --version with 0.
        """
        known = {flag.name: flag for flag in (*GLOG_FLAGS, *self.flags)}
        values: dict[str, Value] = {name: flag.default for name, flag in known.items()}
        rest: list[str] = []
        errors: list[str] = []
        left = list(arguments)
        while left:
            argument = left.pop(0)
            if argument == "--":
                rest, left = rest + left, []
            elif not argument.startswith("-") or argument == "-":
                rest.append(argument)
            else:
                try:
                    self._end_if_asked(argument.lstrip("-"))
                    values.update(_read_flag(argument, left, known))
                except _FlagError as error:
                    errors.append(error)
        if errors:
            for error in errors:
                print(f"ERROR: {error}", file=sys.stderr)
            sys.exit(1)
        if values["minloglevel"]:
            os.environ["GLOG_minloglevel"] = str(values["minloglevel"])  # noqa: SIM112
        if values["log_dir"]:
            CaffeLog()("seenet:0", "-log_dir: log files are not written: redirect stderr", "W")
        return values, rest

    def _end_if_asked(self, name: str) -> None:
        if name in ("help", "helpfull", "helpshort"):
            print(self.usage(), end="")
            sys.exit(1)
        if name == "version":
            print(f"{self.name} version 1.0.0")
            sys.exit(0)


class _FlagError(ValueError):
    """What gflags says of a flag that it cannot take."""


def _read_flag(argument: str, left: list[str], known: Mapping[str, Flag]) -> dict[str, Value]:
    """One flag's value by its name; takes the next of the arguments `left` where the value is there."""
    name, equals, text = argument.lstrip("-").partition("=")
    if name not in known and name.startswith("no") and name[2:] in known:
        name = name[2:]
        if known[name].type != "bool":
            raise _FlagError(f"boolean value ({name}) specified for {known[name].type} command line flag")
        equals, text = "=", "0"
    if name not in known:
        raise _FlagError(f"unknown command line flag '{name}'")
    flag = known[name]
    if not equals and flag.type == "bool":
        text = "1"
    elif not equals and left:
        text = left.pop(0)
    elif not equals:
        told = f"; flag description: {flag.help}" if flag.help else ""
        raise _FlagError(f"flag '{argument}' is missing its argument{told}")
    value = flag.value(text)
    if value is None:
        raise _FlagError(f"illegal value '{text}' specified for {flag.type} flag '{name}'")
    return {name: value}


def _int32(text: str) -> int | None:
    if not re.fullmatch(r"\s*[-+]?(0[xX][0-9a-fA-F]+|\d+)", text):
        return None
    value = int(text, 16 if "x" in text.lower() else 10)
    return value if -(1 << 31) <= value < 1 << 31 else None


def _described(flag: Flag) -> str:
    """A flag's entry in the usage text: folded at 80 columns, continued at column 6."""
    lines = [""]
    for index, word in enumerate(re.findall(r"\s*\S+", f"    -{flag.name} ({flag.help})")):
        _add(lines, word if index == 0 or lines[-1].strip() else word.lstrip())
    _add(lines, f" type: {flag.type}")
    default = f'"{flag.default}"' if flag.type == "string" else str(flag.default).lower()
    _add(lines, f" default: {default}")
    return "\n".join(lines) + "\n"


def _add(lines: list[str], word: str) -> None:
    if len(lines[-1]) + len(word) < WIDTH:
        lines[-1] += word
    else:
        lines.append("      " + word.lstrip())
