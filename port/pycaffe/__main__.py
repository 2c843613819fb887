"""`python -m port.pycaffe SCRIPT [ARG…]`"""

import sys

import port.pycaffe
from runtime import run_script

sys.exit(run_script(port.pycaffe, sys.argv[1:]))
