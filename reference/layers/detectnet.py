"""NVCaffe's DetectNetTransformation."""

import numpy as np

from reference.layer import Arrays, Layer, layer


@layer("DetectNetTransformation")
class DetectNetTransformation(Layer):
    """Augments pictures and boxes alike (runtime/data/detectnet.py); there is no backward pass."""

    def run(self, images: np.ndarray, labels: np.ndarray) -> Arrays:
        return self.opened(images.astype(np.float32), labels.astype(np.float32))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        """Nothing: the bottoms' gradients stay as they are."""
