"""pycaffe's interface over any engine: blobs, nets, Python layers, and running old scripts.

An engine (`reference`, `port`) brings the layers; what a net does around them stands here, once.
"""

from pycaffe.blob import Blob, BlobVec
from pycaffe.net import TEST, TRAIN, Net
from pycaffe.python_layer import Layer
from pycaffe.script import run_script
from pycaffe.solver import SGDSolver

__all__ = ["TEST", "TRAIN", "Blob", "BlobVec", "Layer", "Net", "SGDSolver", "run_script"]
