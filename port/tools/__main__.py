"""`python -m port.tools NAME [ARG…]` runs one of Caffe's tools."""

import sys

from port.tools import SCRIPTS, TOOLS
from port.tools.process import tool_main

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in {*TOOLS, *SCRIPTS}:
        print(
            f"usage: python -m port.tools NAME [ARG…], NAME one of {', '.join((*TOOLS, *SCRIPTS))}",
            file=sys.stderr,
        )
        sys.exit(2)
    sys.exit(tool_main(sys.argv[1], sys.argv[2:]))
