"""What Caffe computes, in plain NumPy: the judge of the port, itself judged by the recordings."""

from reference.published import published_forward

__all__ = ["published_forward"]
