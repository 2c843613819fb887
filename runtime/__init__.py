"""What both engines share when a net runs: blobs, nets as scripts see them, Python layers, random numbers.

An engine (`reference`, `port`) brings the layers; what a net does around them stands here, once.
"""

from runtime.blob import Blob, BlobVec
from runtime.net import TEST, TRAIN, Net
from runtime.python_layer import Layer
from runtime.script import run_script

__all__ = ["TEST", "TRAIN", "Blob", "BlobVec", "Layer", "Net", "run_script"]
