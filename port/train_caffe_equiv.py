"""`python port/train_caffe_equiv.py --solver S` does what `caffe train --solver S` does. See --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, Python puts this folder first on the path; the packages lie one above.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from port.training.command import main

    main()
