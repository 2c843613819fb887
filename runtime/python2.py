"""Code of Python 2: recognised, and on request translated in memory, without changing a file.

The translation is fissix's, the kept-up fork of 2to3. What it cannot see is done here: `/` between integers
divides as Python 2's does, `round` rounds halves away from zero, `cmp` exists, `pickle` reads what Python 2
wrote, and tabs count as eight columns. So is what packages took in its days: `np.float`, floats as sizes and in
slices, `yaml.load` without a loader.
"""

import ast
import functools
import importlib.machinery
import io
import math
import re
import site
import sys
import sysconfig
import tokenize
import traceback
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fissix.refactor import RefactoringTool

NAMES = frozenset(
    (
        "basestring",
        "buffer",
        "cmp",
        "execfile",
        "file",
        "intern",
        "long",
        "raw_input",
        "reduce",
        "reload",
        "unichr",
        "unicode",
        "xrange",
    )
)
"""Built-in names that Python 3 lacks."""

METHODS = frozenset(["iteritems", "iterkeys", "itervalues", "has_key"])
"""Of dictionaries."""

MODULES = frozenset(
    (
        "BaseHTTPServer",
        "ConfigParser",
        "Queue",
        "SocketServer",
        "StringIO",
        "Tkinter",
        "__builtin__",
        "cPickle",
        "cStringIO",
        "commands",
        "cookielib",
        "httplib",
        "thread",
        "urllib2",
        "urlparse",
    )
)

_STATEMENTS = {
    "print statement": r"^\s*print\b(?!\s*\()|\bprint\s+[\"'\w]|^\s*print\s*>>",
    "except with a comma": r"\bexcept\b[^:]*,\s*\w+\s*:",
    "raise with a comma": r"\braise\s+\w+\s*,",
    "exec statement": r"^\s*exec\s+[^(]",
    "<>": r"<>",
    "backticks": r"`",
    "old octal number": r"\b0[0-7]+\b",
    "long number": r"\b\d+[lL]\b",
    "ur string": r"\bur[\"']",
    "tuple parameter": r"\b(def|lambda)\b.*\(\s*\(",
}


def python2_error(error: BaseException) -> str | None:
    """`file:line: print statement of Python 2`, where an error comes from code of Python 2; else None."""
    if isinstance(error, SyntaxError):
        return _syntax(error)
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not is_users(frames[-1].filename):
        return None
    named = getattr(error, "name", None)
    known = {NameError: NAMES, AttributeError: METHODS, ModuleNotFoundError: MODULES}.get(type(error), ())
    if named not in known:
        return None
    return f"{frames[-1].filename}:{frames[-1].lineno}: {named} of Python 2"


def _syntax(error: SyntaxError) -> str | None:
    try:
        source = Path(error.filename or "").read_bytes()
        compile_python2(source, str(error.filename))
    except (OSError, SyntaxError, ValueError):
        return None
    lines = _text(source).splitlines()
    line = lines[error.lineno - 1] if error.lineno and error.lineno <= len(lines) else ""
    if isinstance(error, TabError):
        what = "tabs mixed with spaces"
    else:
        what = next((name for name, sign in _STATEMENTS.items() if re.search(sign, line)), "syntax")
    return f"{error.filename}:{error.lineno}: {what} of Python 2"


def is_users(path: str) -> bool:
    """Whether a file is the user's own: not Python's, no installed package's, none of ours."""
    folders = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    folders += [site.getusersitepackages(), *site.getsitepackages()]
    rooms = ("prototxt", "weights", "runtime", "reference", "port", "parity_tests")
    folders += [str(Path(__file__).resolve().parents[1] / room) for room in rooms]
    resolved = Path(path).resolve()
    if not resolved.is_file() or any(resolved.is_relative_to(folder) for folder in folders):
        return False
    return not any(_holds_packages(folder) for folder in list(resolved.parents)[:DEPTH])


DEPTH = 6
"""Folders above a module in which the place where pip put its package is looked for."""


@functools.cache
def _holds_packages(folder: Path) -> bool:
    """Whether pip installed packages into this folder."""
    return next(folder.glob("*.dist-info"), None) is not None


# ---- Translation


def compile_python2(source: bytes, path: str) -> CodeType:
    """Code that does what the source does in Python 2; run it with `helpers` among its globals.

    Raises:
        SyntaxError: what is neither Python 2 nor Python 3.
    """
    from fissix.pgen2.parse import ParseError
    from fissix.pgen2.tokenize import TokenError

    text = _text(source)
    text = "".join(_untabbed(line) for line in text.splitlines(keepends=True))
    try:
        translated = str(_tool().refactor_string(text.rstrip() + "\n", path))
    except (ParseError, TokenError) as error:
        # Python 3's `print(x, file=y)` is no Python 2: take it as it is.
        try:
            translated = str(_tool(print_function=True).refactor_string(text.rstrip() + "\n", path))
        except (ParseError, TokenError):
            raise SyntaxError(f"{path}: neither Python 2 nor Python 3: {error}") from error
    tree = ast.parse(translated, path)
    exact = re.search(r"^from\s+__future__\s+import\s.*\bdivision\b", text, re.MULTILINE)
    tree = ast.fix_missing_locations(_Semantics(divide=not exact).visit(tree))
    return compile(tree, path, "exec", dont_inherit=True)


@functools.cache
def _tool(print_function: bool = False) -> "RefactoringTool":
    from fissix.refactor import RefactoringTool, get_fixers_from_package

    # fix_sorted takes the first argument of any method called sort for a comparison.
    fixers = set(get_fixers_from_package("fissix.fixes")) - {"fissix.fixes.fix_sorted"}
    return RefactoringTool(sorted(fixers), {"print_function": print_function})


def _text(source: bytes) -> str:
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(source).readline)[0]
        return source.decode(encoding)
    except (SyntaxError, UnicodeDecodeError):
        return source.decode("latin-1")


def _untabbed(line: str) -> str:
    body = line.lstrip(" \t")
    return line[: len(line) - len(body)].expandtabs(8) + body


class _Semantics(ast.NodeTransformer):
    """What the same text meant in Python 2's days."""

    def __init__(self, divide: bool):
        self.divide = divide
        self.numpy = {"numpy"}  # the names that numpy goes by

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if self.divide and isinstance(node.op, ast.Div):
            return ast.copy_location(_call("__python2_divide__", node.left, node.right), node)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not (self.divide and isinstance(node.op, ast.Div)):
            return node
        loaded = ast.parse(ast.unparse(node.target), mode="eval").body
        value = _call("__python2_divide_in_place__", loaded, node.value)
        return ast.copy_location(ast.Assign([node.target], value), node)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            if alias.name == "numpy" and alias.asname:
                self.numpy.add(alias.asname)
            if alias.name == "pickle":
                alias.name, alias.asname = "runtime.python2_pickle", alias.asname or "pickle"
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.module == "pickle" and not node.level:
            node.module = "runtime.python2_pickle"
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        of_numpy = isinstance(node.value, ast.Name) and node.value.id in self.numpy
        if of_numpy and node.attr in ("float", "int", "bool", "object", "complex", "str"):
            return ast.copy_location(ast.Name(node.attr, ast.Load()), node)
        return node

    def visit_Slice(self, node: ast.Slice) -> ast.AST:
        self.generic_visit(node)
        for part in ("lower", "upper", "step"):
            value = getattr(node, part)
            if value is not None and not isinstance(value, ast.Constant):
                setattr(node, part, _call("__python2_index__", value))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        for keyword in node.keywords:
            if keyword.arg == "size":
                keyword.value = _call("__python2_index__", keyword.value)
        one = len(node.args) + len(node.keywords) == 1
        if one and isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "yaml.load":
            node.func.attr = "safe_load"
        return node


def _call(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def _divide(a: Any, b: Any) -> Any:
    return a // b if _integral(a) and _integral(b) else a / b


def _divide_in_place(a: Any, b: Any) -> Any:
    if _integral(a) and _integral(b):
        a //= b
    else:
        a /= b
    return a


def _integral(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "iub"
    return isinstance(value, int)


def _index(value: Any) -> Any:
    return int(value) if isinstance(value, float | np.floating) else value


def _round(number: float, digits: int = 0) -> float:
    scaled = abs(number) * 10.0**digits
    return math.copysign(math.floor(scaled + 0.5) / 10.0**digits, number)


def _compare(a: Any, b: Any) -> int:
    return (a > b) - (a < b)


def helpers() -> dict[str, Callable]:
    """What translated code finds among its globals."""
    return {
        "__python2_divide__": _divide,
        "__python2_divide_in_place__": _divide_in_place,
        "__python2_index__": _index,
        "round": _round,
        "cmp": _compare,
    }


# ---- Running


def run_python2(script: Path) -> None:
    """Run a script as `__main__`, translated, and each module of the user's that it imports."""
    main = ModuleType("__main__")
    main.__dict__.update(helpers(), __file__=str(script))
    before = sys.modules["__main__"]
    sys.modules["__main__"] = main
    sys.meta_path.insert(0, Python2Finder())
    try:
        exec(compile_python2(script.read_bytes(), str(script)), main.__dict__)
    finally:
        sys.modules["__main__"] = before
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Python2Finder)]


class Python2Finder(MetaPathFinder):
    """Finds the user's own modules, and has them translated."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if (
            spec
            and isinstance(spec.loader, importlib.machinery.SourceFileLoader)
            and is_users(spec.origin or "")
        ):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
            return spec
        return None


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        """Always from the source: a cached file may hold it as Python 3 read it."""
        path = self.get_filename(fullname)
        return compile_python2(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(helpers())
        super().exec_module(module)
