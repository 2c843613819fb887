"""SeeNet's own layers: C-ReLU in front of S_B, the background mask in front of S_C.

They stand for the Python layers `crelu_layer.CReLULayer` (the authors' release) and
`scan_background_layer.BackgroundMaskLayer` (this project's name for S_C's mask, after the paper).
"""

import numpy as np

from prototxt.errors import InputError
from prototxt.layers.erasing import literal_params
from reference.layer import PYTHON_LAYERS, Arrays, Layer


def normalised_attention(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The attention that the erasing layers threshold: (num, height, width) in [0, 1].

    Args:
        scores: (num, classes, height, width), S_A's score maps.
        labels: (num, classes); a class counts where its label truncates to 1, as in the authors' layer.

    Negatives become 0, then each labelled class's map is min-max normalised (1e-8 in the denominator);
    the maximum over them is taken. An image without labels has attention 0.
    """
    positive = np.maximum(scores, 0)
    low = positive.min(axis=(2, 3), keepdims=True)
    high = positive.max(axis=(2, 3), keepdims=True)
    # The authors' NumPy added 1e-8 to a float32 scalar in float64 and divided in float32 again.
    span = ((high - low).astype(np.float64) + 1e-8).astype(scores.dtype)
    labelled = np.trunc(labels) == 1
    maps = np.where(labelled[:, :, None, None], (positive - low) / span, scores.dtype.type(0))
    return maps.max(axis=1)


class _Erasing(Layer):
    """Bottoms: features (num, channels, h, w), scores (num, classes, h, w), labels (num · classes values)."""

    def attention(self, features: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        if labels.size != scores.shape[0] * scores.shape[1]:
            raise InputError(
                f"the label blob {labels.shape} must hold {scores.shape[1]} values for each of "
                f"{scores.shape[0]} images: reshape it before the forward pass"
            )
        return normalised_attention(scores, labels.reshape(scores.shape[:2]))[:, None]


class CReLU(_Erasing):
    """C-ReLU as released: erased above `maxt`, negated below `mint`, per image.

    The backward is the authors': erased positions are zeroed in CHANNEL 0 ONLY; where the forward
    negated, the gradient is negated. (The port offers the exact gradient beside it.)
    """

    def set_up(self) -> None:
        self.maxt, self.mint = map(self.dtype.type, literal_params(self.param, "maxt", "mint"))

    def run(self, features: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        attention = self.attention(features, scores, labels)
        self.erased, self.negated = attention > self.maxt, attention < self.mint
        return self._negate(np.where(self.erased, self.dtype.type(0), features))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        diff = top_diffs[0].copy()
        diff[:, :1][self.erased] = 0
        return [self._negate(diff), None, None]

    def _negate(self, array: np.ndarray) -> np.ndarray:
        return np.where(self.negated, -array, array)


class BackgroundMask(_Erasing):
    """Keeps the features where attention is below `thresh`, 0 elsewhere; gradients likewise."""

    def set_up(self) -> None:
        (self.thresh,) = map(self.dtype.type, literal_params(self.param, "thresh"))

    def run(self, features: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        self.kept = self.attention(features, scores, labels) < self.thresh
        return np.where(self.kept, features, self.dtype.type(0))

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        return [np.where(self.kept, top_diffs[0], self.dtype.type(0)), None, None]


PYTHON_LAYERS["crelu_layer", "CReLULayer"] = CReLU
PYTHON_LAYERS["scan_background_layer", "BackgroundMaskLayer"] = BackgroundMask
