"""Running an old script with `import caffe` resolved to an engine."""

import runpy
import sys
from pathlib import Path
from types import ModuleType

from prototxt.errors import InputError
from runtime.cython_helpers import cython_helpers
from runtime.python2 import python2_error, run_python2
from runtime.python_layer import import_caffe_as


def run_script(caffe: ModuleType, argv: list[str]) -> int:
    """Run `[--python2] SCRIPT [ARG…]` as `python SCRIPT [ARG…]` would, `caffe` being the engine's module.

    Returns the exit status: 2 for a script that cannot be found, and one of Python 2 without `--python2`,
    which translates it and its modules in memory; what the script raises passes through.
    """
    python2 = argv[:1] == ["--python2"]
    argv = argv[1:] if python2 else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: python -m {caffe.__name__} [--python2] SCRIPT [ARG...]", file=sys.stderr)
        return 0 if argv else 2
    script = Path(argv[0])
    if not script.is_file():
        print(f"{script}: no such script: check the path", file=sys.stderr)
        return 2
    for line in hidden_modules(script.resolve().parent):
        print(f"note: {line}", file=sys.stderr)
    sys.argv = argv
    sys.path.insert(0, str(script.resolve().parent))
    with import_caffe_as(caffe), cython_helpers():
        try:
            if python2:
                run_python2(script)
            else:
                runpy.run_path(str(script), run_name="__main__")
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except (SyntaxError, NameError, AttributeError, ModuleNotFoundError) as error:
            found = None if python2 else python2_error(error)
            if found is None:
                raise
            command = f"python -m {caffe.__name__} --python2 {' '.join(argv)}"
            print(f"error: {found}: to have it translated as it runs: {command}", file=sys.stderr)
            return 2
    return 0


def hidden_modules(folder: Path) -> list[str]:
    """A line for each module in a script's folder that has the name of one of this project's packages."""
    home = Path(__file__).parents[1]
    return [
        f'{found}: "import {room}" gives this project\'s package of that name: rename the file'
        for room in ("parity_tests", "port", "prototxt", "reference", "runtime", "weights")
        for found in (folder / f"{room}.py", folder / room / "__init__.py")
        if folder != home and found.is_file()
    ]
