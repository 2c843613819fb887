"""Running an old script with `import caffe` resolved to an engine."""

import runpy
import sys
from pathlib import Path
from types import ModuleType

from prototxt.errors import InputError
from runtime.python_layer import import_caffe_as


def run_script(caffe: ModuleType, argv: list[str]) -> int:
    """Run `SCRIPT [ARG…]` as `python SCRIPT [ARG…]` would, `caffe` being the engine's module.

    Returns the exit status: 2 for a script that cannot be found; what the script raises passes through.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: python -m {caffe.__name__} SCRIPT [ARG...]", file=sys.stderr)
        return 0 if argv else 2
    script = Path(argv[0])
    if not script.is_file():
        print(f"{script}: no such script: check the path", file=sys.stderr)
        return 2
    sys.argv = argv
    sys.path.insert(0, str(script.resolve().parent))
    with import_caffe_as(caffe):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    return 0
