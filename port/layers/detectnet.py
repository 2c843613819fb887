"""NVCaffe's DetectNetTransformation."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from port.gradient import without_gradient
from port.layer import Layer, layer


@layer("DetectNetTransformation")
class DetectNetTransformation(Layer):
    """The batch and its boxes, augmented on the CPU (runtime/data/detectnet.py). Nothing goes back."""

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        tops = self.opened(*(x.detach().cpu().numpy().astype(np.float32) for x in (images, labels)))
        return tuple(without_gradient(torch.from_numpy(top).to(images), images, labels) for top in tops)

    def state(self) -> Any:
        """Where its draws stand, as plain data."""
        return self.opened.state()

    def restore(self, state: Any) -> None:
        """Draw on from there."""
        self.opened.restore(state)
