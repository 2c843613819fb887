"""SeeNet's Python layers: `crelu_layer.CReLULayer` and `scan_background_layer.BackgroundMaskLayer`."""

from torch import Tensor

from port.layer import PYTHON_LAYERS, Layer
from port.models.crelu import BackgroundMask, CReLU
from prototxt.errors import InputError
from prototxt.layers.erasing import literal_params


class _Erasing(Layer):
    def forward(self, features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        if labels.numel() != scores.shape[0] * scores.shape[1]:
            raise InputError(
                f"the label blob {tuple(labels.shape)} must hold {scores.shape[1]} values for each of "
                f"{scores.shape[0]} images: reshape it before the forward pass"
            )
        return self.mask(features, scores, labels)


class CReLULayer(_Erasing):
    def set_up(self) -> None:
        maxt, mint = literal_params(self.param, "maxt", "mint")
        self.mask = CReLU(maxt, mint)

    def forward(self, *bottoms: Tensor) -> Tensor:
        self.mask.backward = "exact" if self.exact else "caffe"
        return super().forward(*bottoms)


class BackgroundMaskLayer(_Erasing):
    def set_up(self) -> None:
        self.mask = BackgroundMask(*literal_params(self.param, "thresh"))


PYTHON_LAYERS["crelu_layer", "CReLULayer"] = CReLULayer
PYTHON_LAYERS["scan_background_layer", "BackgroundMaskLayer"] = BackgroundMaskLayer
