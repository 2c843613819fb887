"""`python port/tools/launch.py NAME [ARG…]` runs one of Caffe's tools: what the launchers call."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on the path; the packages lie two above. The current
    # folder stays off the path: it may hold folders called `weights` or `prototxt`.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from port.tools.process import tool_main

    sys.exit(tool_main(sys.argv[1], sys.argv[2:]))
