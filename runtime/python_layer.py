"""Python layers: the base class that scripts derive from, and which modules may be loaded."""

import contextlib
import importlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from prototxt.caffe_pb2 import LayerParameter, Phase
from prototxt.errors import InputError
from runtime.blob import Blob, BlobVec
from runtime.pycaffe import proto
from runtime.python2 import python2_error


class Layer:
    """What `caffe.Layer` is to a script: derive from it and write the four methods.

    Attributes:
        param_str (str), phase (int), blobs (BlobVec): set before `setup`. Layers of 2014 read `param_str_`.
    """

    type = "Python"
    param_str = param_str_ = ""
    phase = 0

    def __init__(self, param: LayerParameter | None = None):
        self.blobs = BlobVec()

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no setup(bottom, top)")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no reshape(bottom, top)")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no forward(bottom, top)")

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        raise NotImplementedError(f"{type(self).__name__} has no backward(top, propagate_down, bottom)")


def find_layer_class(
    param: LayerParameter,
    builtin: dict[tuple[str, str], type],
    allowed: Collection[str] | None,
    caffe: str,
) -> type:
    """The class behind a Python layer.

    Args:
        builtin: the engine's own layers by (module, layer).
        allowed: None in a user's own script, where any module on the path loads as in Caffe and comes
            before a built-in of its name. Otherwise the modules that the user named: nothing else is
            imported, so a prototxt from elsewhere runs no code.
        caffe: name of the module that `import caffe` means to it.

    Raises:
        InputError: a module that is not allowed or not found, or that lacks the class.
    """
    module_name, layer_name = param.python_param.module, param.python_param.layer
    own = builtin.get((module_name, layer_name))
    if allowed is not None and module_name not in allowed:
        if own is None:
            raise InputError(
                f'Python module "{module_name}" is not loaded unasked: if you trust it, '
                f"allow it (--allow-module {module_name}, or allow_modules= in Python)"
            )
        return own
    try:
        module = import_named(module_name, caffe)
    except ModuleNotFoundError as error:
        if error.name == module_name and own is not None:
            return own
        raise InputError(_not_found(module_name, error)) from error
    if not hasattr(module, layer_name):
        raise InputError(f'module "{module_name}" has no class "{layer_name}"')
    return getattr(module, layer_name)


def import_named(name: str, caffe: str) -> ModuleType:
    """Import a module that the user named, in which `import caffe` means the engine `caffe`.

    Raises:
        ModuleNotFoundError: it, or what it imports, is not there.
        InputError: it is not Python 3.
    """
    try:
        with import_caffe_as(importlib.import_module(caffe)):
            return importlib.import_module(name)
    except (TypeError, ValueError) as error:
        if name and not name.startswith("."):
            raise
        raise InputError(f'Python module "{name}" is no name of a module') from error
    except SyntaxError as error:
        found = python2_error(error)
        if found is None:
            raise InputError(f"{error.filename}:{error.lineno}: {error.msg}") from error
        raise InputError(
            f"{found}: translate it (python -m fissix -w -n {error.filename}), or use it from a script that "
            f"python -m {caffe} --python2 runs"
        ) from error


def load_modules(names: Iterable[str], caffe: str) -> list[str]:
    """Import the modules that the user allows, which register layer types of their own; gives their names.

    Args:
        names: of modules, or paths of Python files: a file's folder is put on the path.

    Raises:
        InputError: a module or file that is not there, or is not Python 3.
    """
    modules = []
    for name in names:
        module = name
        if name.endswith(".py"):
            path = Path(os.path.realpath(name))
            if not os.path.isfile(path):
                raise InputError(f"{name}: there is no such file")
            module = path.stem
            if str(path.parent) not in sys.path:
                sys.path.insert(0, str(path.parent))
        try:
            loaded = import_named(module, caffe)
        except ModuleNotFoundError as error:
            raise InputError(_not_found(module, error)) from error
        if module != name and Path(str(loaded.__file__)).resolve() != path:
            raise InputError(
                f"{name}: another module is called {module} ({loaded.__file__}): rename the file"
            )
        modules.append(module)
    return modules


def _not_found(module: str, error: ModuleNotFoundError) -> str:
    return f'Python module "{module}": {error}: put its folder on PYTHONPATH'


def new_python_layer(cls: type, param: LayerParameter) -> Layer:
    """An instance of a script's layer class, with what Caffe sets before `setup`."""
    layer = cls(param)
    layer.param_str = layer.param_str_ = param.python_param.param_str
    layer.phase = PhaseNumber(param.phase)
    return layer


class PhaseNumber(int):
    """0 or 1, as in Caffe; its text is TRAIN or TEST, by which the layers of Faster R-CNN's fork go."""

    def __str__(self) -> str:
        return Phase.Name(self)


@contextlib.contextmanager
def import_caffe_as(caffe: ModuleType) -> Iterator[None]:
    """Let `import caffe`, `caffe.proto`, … mean this engine's module and its submodules inside the block."""
    aliases = {"caffe": caffe, "caffe.pycaffe": caffe, "caffe._caffe": caffe}
    # What scripts import by name: the modules that the engine's own module has, and the messages.
    ours = ("runtime.pycaffe.", f"{caffe.__name__}.")
    modules = {name: m for name, m in vars(caffe).items() if isinstance(m, ModuleType)}
    aliases |= {f"caffe.{name}": m for name, m in modules.items() if m.__name__.startswith(ours)}
    aliases["caffe.proto.caffe_pb2"] = proto.caffe_pb2
    hidden = {name: sys.modules.pop(name) for name in _caffe_modules()}
    sys.modules.update(aliases)
    try:
        yield
    finally:
        for name in _caffe_modules():
            del sys.modules[name]
        sys.modules.update(hidden)


def _caffe_modules() -> list[str]:
    return [name for name in sys.modules if name == "caffe" or name.startswith("caffe.")]
