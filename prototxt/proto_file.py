"""Reading a `.proto` file as it is written, without protobuf's compiler: a fork's `caffe.proto` at run time.

`read_proto(path)` gives message classes, as generated code has them. What is read: proto2 and proto3, messages and
enums at any depth, fields of all kinds, `default`, `packed`, `oneof`, `map`, groups, imports beside the file. What
declares no field of a message is passed over: services, extensions, options, reserved numbers.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from prototxt.errors import InputError
from prototxt.files import read_ordinary
from prototxt.text import QUOTED

_SCALARS: dict[str, Any] = {
    "double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "fixed64": 6, "fixed32": 7, "bool": 8,
    "string": 9, "bytes": 12, "uint32": 13, "sfixed32": 15, "sfixed64": 16, "sint32": 17, "sint64": 18,
}  # fmt: skip
_LABELS: dict[str, Any] = {"optional": 1, "required": 2, "repeated": 3}
_GROUP = FieldDescriptorProto.TYPE_GROUP
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)"""
    rf"""|(?P<token>{QUOTED}|[-+]?\.?\d[\w.]*(?:(?<=[eE])[-+]\d+)?|\.?[A-Za-z_][\w.]*|[^\s"'/])""",
    re.DOTALL,
)
_AHEAD = 3  # tokens that are looked at before they are taken
_DEEP = 60
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def read_proto(path: str | os.PathLike) -> dict[str, type[Message]]:
    """The messages that the file has outside of others, as classes, by name.

    Raises:
        InputError: `path:line: what`, for a file that is missing or is not a `.proto`.
    """
    pool = DescriptorPool()
    parsed = _read(Path(path), pool, [])
    package = f"{parsed.package}." if parsed.package else ""
    return {
        message.name: GetMessageClass(pool.FindMessageTypeByName(package + message.name))
        for message in parsed.message_type
    }


def parse_proto(text: str, where: str) -> FileDescriptorProto:
    """A file's text as protobuf's compiler describes it, but for options that say nothing of what is read.

    A field whose type is declared in a file that is imported has the type's name as it is written there.

    Raises:
        InputError: `where:line: what`.
    """
    return _Parser(text, where).file()


def _read(path: Path, pool: DescriptorPool, above: list[Path]) -> FileDescriptorProto:
    """Read the file, after those that it imports, into the pool."""
    try:
        text = read_ordinary(path).decode(errors="replace")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    parser = _Parser(text, str(path))
    parsed = parser.file()
    imported = []
    for name, line in parser.imports:
        found = path.parent / PurePosixPath(name)
        if name.startswith("google/protobuf/"):
            continue  # for options, which are not read
        if not found.is_file():
            found = path.parent / PurePosixPath(name).name
        if not found.is_file() or found in (*above, path):
            raise InputError(f"{path}:{line}: imports {name}, which is not beside this file")
        imported.append(_read(found, pool, [*above, path]))
    parsed.dependency.extend(each.name for each in imported)
    parser.resolve(parsed, [name for each in imported for name in _type_names(each)])
    try:
        pool.Add(parsed)
        pool.FindFileByName(parsed.name)
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[-1]}") from error
    return parsed


@dataclass
class _Reference:
    """A field whose type is a name: what the name stands for is known when the file is read."""

    field: FieldDescriptorProto
    scope: tuple[str, ...]
    line: int


@dataclass
class _Parser:
    text: str
    where: str
    tokens: list[tuple[str, int]] = field(default_factory=list)
    at: int = 0
    imports: list[tuple[str, int]] = field(default_factory=list)
    references: list[_Reference] = field(default_factory=list)
    proto3: bool = False

    def __post_init__(self) -> None:
        line, start = 1, 0
        while start < len(self.text):
            match = _TOKEN.match(self.text, start)
            if match is None:
                raise InputError(
                    f"{self.where}:{line}: {self.text[start]!r} begins nothing that a .proto has"
                )
            if match["token"]:
                self.tokens.append((match["token"], line))
            line += match[0].count("\n")
            start = match.end()
        self.tokens += [("", line)] * (1 + _AHEAD)

    # ---- tokens

    @property
    def token(self) -> str:
        return self.tokens[self.at][0]

    def error(self, what: str, at: int | None = None) -> InputError:
        return InputError(f"{self.where}:{self.tokens[self.at if at is None else at][1]}: {what}")

    def unexpected(self, wanted: str) -> InputError:
        return self.error(
            f"{wanted} is expected, not {repr(self.token) if self.token else 'the end of the file'}"
        )

    def next(self, *expected: str) -> str:
        token = self.token
        if not token or (expected and token not in expected):
            wanted = " or ".join(f'"{x}"' for x in expected) or "more"
            raise self.unexpected(wanted)
        self.at += 1
        return token

    def name(self) -> str:
        if not re.fullmatch(r"\.?[A-Za-z_][\w.]*", self.token):
            raise self.unexpected("a name")
        return self.next()

    def number(self) -> int:
        token = self.next()
        if token in "+-":
            return int(f"{token}1") * self.number()
        try:
            return _integer(token)
        except ValueError:
            raise self.error(f"a number is expected, not {token!r}", self.at - 1) from None

    def ranged(self, least: int, most: int) -> int:
        at, number = self.at, self.number()
        if not least <= number <= most:
            raise self.error(f"{number} is not from {least} to {most}", at)
        return number

    def string(self) -> str:
        if self.token[:1] not in ("'", '"') or not self.token:
            raise self.unexpected("a string")
        pieces = []
        while self.token[:1] in ("'", '"') and self.token:
            pieces.append(self.next()[1:-1])
        return _ESCAPE.sub(_unescaped, "".join(pieces))

    def pass_over(self) -> None:
        """Up to the statement's `;`, or its closing brace."""
        depth = 0
        while depth or self.token != ";":
            token = self.next()
            depth += (token == "{") - (token == "}")
            if token == "}" and not depth:
                if self.token == ";":
                    self.at += 1
                return
        self.at += 1

    # ---- statements

    def file(self) -> FileDescriptorProto:
        parsed = FileDescriptorProto(name=Path(self.where).as_posix())
        while self.token:
            word = self.token
            if word == "message":
                self.message(parsed.message_type.add(), ())
            elif word == "enum":
                self.enum(parsed.enum_type.add())
            elif word in ("syntax", "package", "import"):
                self.heading(parsed)
            elif word in ("option", "service", "extend", "edition"):
                self.pass_over()
            elif word == ";":
                self.at += 1
            else:
                raise self.unexpected("a message or an enum")
        self.resolve(parsed, [], known_only=True)
        return parsed

    def heading(self, parsed: FileDescriptorProto) -> None:
        line = self.tokens[self.at][1]
        word = self.next()
        if word == "syntax":
            self.next("=")
            syntax = self.string()
            if syntax not in ("proto2", "proto3"):
                raise self.error(f"syntax {syntax!r} is not supported: proto2 and proto3 are", self.at - 1)
            self.proto3 = syntax == "proto3"
            if self.proto3:
                parsed.syntax = syntax
        elif word == "package":
            parsed.package = self.name()
        else:
            if self.token in ("public", "weak"):
                self.at += 1
            self.imports.append((self.string(), line))
        self.next(";")

    def message(self, message: DescriptorProto, scope: tuple[str, ...]) -> None:
        self.next("message")
        message.name = self.name()
        self.body(message, (*scope, message.name))

    def body(self, message: DescriptorProto, scope: tuple[str, ...]) -> None:
        if len(scope) > _DEEP:
            raise self.error(f"messages lie more than {_DEEP} deep in each other")
        self.next("{")
        taken: dict[str | int, str] = {}
        while self.token != "}":
            word = self.token
            if word == "message":
                self.message(message.nested_type.add(), scope)
            elif word == "enum":
                self.enum(message.enum_type.add())
            elif word == "oneof" and self.tokens[self.at + 2][0] == "{":
                self.one_of(message, scope, taken)
            elif word in ("option", "extensions", "reserved", "extend") and self._is_statement():
                self.pass_over()
            elif word == ";":
                self.at += 1
            else:
                self.field(message, scope, taken)
        self.at += 1
        if self.token == ";":
            self.at += 1

    def _is_statement(self) -> bool:
        """Not a field of proto3 whose type has one of the words as its name."""
        return self.tokens[self.at + 2][0] != "=" or self.token == "option"

    def one_of(self, message: DescriptorProto, scope: tuple[str, ...], taken: dict[str | int, str]) -> None:
        self.next("oneof")
        index = len(message.oneof_decl)
        message.oneof_decl.add(name=self.name())
        self.next("{")
        while self.token != "}":
            if self.token == "option":
                self.pass_over()
            else:
                self.field(message, scope, taken, index)
        self.at += 1

    def field(
        self,
        message: DescriptorProto,
        scope: tuple[str, ...],
        taken: dict[str | int, str],
        one_of: int | None = None,
    ) -> None:
        start = self.at
        label = self.next() if self.token in _LABELS else ""
        if not (label or self.proto3 or one_of is not None or self.token == "map"):
            raise self.unexpected("optional, required or repeated")
        new = FieldDescriptorProto(label=_LABELS[label or "optional"])
        if one_of is not None:
            new.oneof_index = one_of
        entry = self.map_entry() if self.token == "map" and self.tokens[self.at + 1][0] == "<" else None
        type_name = "" if entry else self.name()
        new.name = self.name()
        self.next("=")
        new.number = self.ranged(1, (1 << 29) - 1)
        for what in (new.name, new.number):
            if what in taken:
                kind = (
                    f'two fields are called "{what}"'
                    if what == new.name
                    else f"{taken[what]} has number {what} too"
                )
                raise self.error(f"{'.'.join(scope)}.{new.name}: {kind}", start)
            taken[what] = new.name
        line = self.tokens[start][1]
        if entry:
            entry.name = f"{_camel(new.name)}Entry"
            message.nested_type.append(entry)
            new.label, new.type_name = FieldDescriptorProto.LABEL_REPEATED, entry.name
            self.references += [
                _Reference(each, (*scope, entry.name), line)
                for each in message.nested_type[-1].field
                if each.type_name
            ]
        elif type_name == "group":
            group = message.nested_type.add(name=new.name)
            new.type, new.type_name, new.name = _GROUP, group.name, new.name.lower()
            self.body(group, (*scope, group.name))
        elif type_name in _SCALARS:
            new.type = _SCALARS[type_name]
        else:
            new.type_name = type_name
        if not (new.HasField("type") and new.type == _GROUP):
            self.options(new)
            self.next(";")
        message.field.append(new)
        if new.type_name:
            self.references.append(_Reference(message.field[-1], scope, line))

    def map_entry(self) -> DescriptorProto:
        """The message that a map's entries are."""
        self.next("map")
        self.next("<")
        entry = DescriptorProto()
        entry.options.map_entry = True
        for number, name, stop in ((1, "key", ","), (2, "value", ">")):
            new = entry.field.add(name=name, number=number, label=_LABELS["optional"])
            kind = self.name()
            if kind in _SCALARS:
                new.type = _SCALARS[kind]
            else:
                new.type_name = kind
            self.next(stop)
        return entry

    def options(self, new: FieldDescriptorProto) -> None:
        """`[default = 1, packed = true]`; other options are passed over."""
        if self.token != "[":
            return
        while self.next("[", ",", "]") != "]":
            if self.token == "(":
                while self.token != "=":
                    self.next()
            name = "" if self.token == "=" else self.name()
            self.next("=")
            if name == "default":
                new.default_value = self.default(new)
            elif name == "packed":
                new.options.packed = self.next("true", "false") == "true"
            elif self.token == "{":
                depth = 0
                while True:
                    token = self.next()
                    depth += (token == "{") - (token == "}")
                    if not depth:
                        break
            else:
                while self.token not in (",", "]"):
                    self.next()

    def default(self, new: FieldDescriptorProto) -> str:
        """A default as descriptors hold it: text."""
        kind = new.type if new.HasField("type") else 0
        if kind == FieldDescriptorProto.TYPE_STRING:
            return self.string()
        if kind == FieldDescriptorProto.TYPE_BYTES:
            return "".join(
                chr(ord(c)) if " " <= c < "\x7f" and c not in "\\\"'" else f"\\{ord(c):03o}"
                for c in self.string()
            )
        sign = "-" if self.token in "+-" and self.next() == "-" else ""
        at, value = self.at, sign + self.next()
        if kind in (0, FieldDescriptorProto.TYPE_BOOL):
            if not re.fullmatch("true|false" if kind else r"[A-Za-z_]\w*", value):
                raise self.error(f"{value} is no default of {new.name}", at)
            return value
        try:
            if kind in (FieldDescriptorProto.TYPE_FLOAT, FieldDescriptorProto.TYPE_DOUBLE):
                return _float_text(value)
            return str(_integer(value))
        except ValueError:
            raise self.error(f"{value} is no default of {new.name}", at) from None

    def enum(self, enum: EnumDescriptorProto) -> None:
        self.next("enum")
        enum.name = self.name()
        self.next("{")
        while self.token != "}":
            if self.token in ("option", "reserved") and self.tokens[self.at + 1][0] != "=":
                if self.token == "option" and "allow_alias" in (self.tokens[self.at + 1][0],):
                    enum.options.allow_alias = self.tokens[self.at + 3][0] == "true"
                self.pass_over()
                continue
            if self.token == ";":
                self.at += 1
                continue
            name = self.name()
            self.next("=")
            enum.value.add(name=name, number=self.ranged(-(1 << 31), (1 << 31) - 1))
            if self.token == "[":
                while self.next() != "]":
                    pass
            self.next(";")
        self.at += 1
        if not enum.value:
            raise self.error(f"enum {enum.name} has no values", self.at - 1)

    # ---- names of types

    def resolve(self, parsed: FileDescriptorProto, imported: list[str], known_only: bool = False) -> None:
        """Give each field whose type is a name the full one, and whether it is a message or an enum.

        Args:
            imported: full names from other files, an enum's with "enum " before it.
            known_only: leave names alone that this file does not have: it imports others.
        """
        known = {
            name.removeprefix("enum "): name.startswith("enum ") for name in [*_type_names(parsed), *imported]
        }
        left = []
        for reference in self.references:
            new, name = reference.field, reference.field.type_name
            scopes = [*filter(None, parsed.package.split(".")), *reference.scope]
            candidates = [".".join([*scopes[:i], name]) for i in range(len(scopes), -1, -1)]
            full = next((x for x in candidates if x in known), None) if name[0] != "." else name[1:]
            if full is None or full not in known:
                if known_only and self.imports:
                    left.append(reference)
                    continue
                raise InputError(f"{self.where}:{reference.line}: {new.name}: there is no type {name}")
            if not (new.HasField("type") and new.type == _GROUP):
                enum = known[full]
                new.type = FieldDescriptorProto.TYPE_ENUM if enum else FieldDescriptorProto.TYPE_MESSAGE
            new.type_name = f".{full}"
        self.references = left


def _type_names(parsed: FileDescriptorProto) -> list[str]:
    """The full names of a file's messages and enums, an enum's with "enum " before it."""
    names: list[str] = []

    def add(prefix: str, messages: list[DescriptorProto], enums: list[EnumDescriptorProto]) -> None:
        names.extend(f"enum {prefix}{enum.name}" for enum in enums)
        for message in messages:
            names.append(prefix + message.name)
            add(f"{prefix}{message.name}.", list(message.nested_type), list(message.enum_type))

    add(f"{parsed.package}." if parsed.package else "", list(parsed.message_type), list(parsed.enum_type))
    return names


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
    return int(text, 8 if octal else 0)


def _float_text(text: str) -> str:
    if text.lstrip("+-") in ("inf", "nan"):
        return text
    value = float(_integer(text)) if re.fullmatch(r"[-+]?0[xX]\w+", text) else float(text.rstrip("fF"))
    short = f"{value:.15g}"
    return short if float(short) == value else repr(value)


def _unescaped(match: re.Match) -> str:
    code = match[1]
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return _ESCAPED.get(code, code)


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))
