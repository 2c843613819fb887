"""C-ReLU, the layer that makes SeeNet: erases where attention is high, negates where it is low."""

import torch
from torch import Tensor, nn


def normalised_attention(scores: Tensor, labels: Tensor) -> Tensor:
    """The attention that the erasing layers threshold.

    Args:
        scores: (num, classes, height, width), S_A's score maps.
        labels: num · classes values; a class counts where its label truncates to 1, as in the authors' layer.

    Returns:
        (num, 1, height, width) in [0, 1]: negatives to 0, each labelled class's map min-max normalised with
        1e-8 in the denominator, the maximum over them; 0 for an image without labels.
    """
    positive = scores.detach().clamp(min=0)
    low = positive.amin(dim=(2, 3), keepdim=True)
    high = positive.amax(dim=(2, 3), keepdim=True)
    # The authors' NumPy added 1e-8 to a float32 scalar in float64 and divided in float32 again.
    span = ((high - low).double() + 1e-8).to(scores.dtype)
    labelled = labels.detach().reshape(scores.shape[0], scores.shape[1], 1, 1).long() == 1
    return torch.where(labelled, (positive - low) / span, 0).amax(dim=1, keepdim=True)


class CReLU(nn.Module):
    """C-ReLU(x) = x · T with T = 0 where attention > `maxt`, -1 where < `mint`, else 1, per image.

    ([P] writes max(x, 0) · T; the release applies it to conv5_3 after its ReLU, so the two agree.)

    Args:
        maxt, mint: thresholds on the normalised attention: δ_h and δ_l in the paper, which trains with 0.7 and
            0.05; the released deploy net has 0.8 and 0.0 (nothing is below 0, so nothing is negated).
        backward: "caffe" is the released layer's gradient: erased positions are zeroed in channel 0 only, the
            others pass it on. "exact" is T times the gradient, in all channels.

    Source: [P] section 3, [R] crelu_layer.py.
    """

    def __init__(self, maxt: float = 0.8, mint: float = 0.0, backward: str = "caffe"):
        super().__init__()
        if backward not in ("caffe", "exact"):
            raise ValueError(f'backward is "caffe" or "exact", not {backward!r}')
        self.maxt, self.mint, self.backward = maxt, mint, backward

    def forward(self, features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """
        Args:
            features: (num, channels, height, width).
            scores: (num, classes, height, width); no gradient flows to it.
            labels: num · classes values, in any shape.

        Returns:
            Like `features`.
        """
        attention = normalised_attention(scores, labels)
        erased, negated = attention > self.maxt, attention < self.mint
        if self.backward == "caffe" and torch.is_grad_enabled() and features.requires_grad:
            return _ReleasedCReLU.apply(features, erased, negated)
        return _negate(torch.where(erased, 0, features), negated)

    def extra_repr(self) -> str:
        return f'maxt={self.maxt}, mint={self.mint}, backward="{self.backward}"'


class _ReleasedCReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, erased: Tensor, negated: Tensor) -> Tensor:
        ctx.save_for_backward(erased, negated)
        return _negate(torch.where(erased, 0, features), negated)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        erased, negated = ctx.saved_tensors
        first = torch.where(erased, 0, grad[:, :1])
        return _negate(torch.cat([first, grad[:, 1:]], dim=1), negated), None, None


def _negate(x: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, -x, x)


class BackgroundMask(nn.Module):
    """Keeps the features where attention is below `thresh`, (δ_h + δ_l) / 2 in the paper: S_C's input."""

    def __init__(self, thresh: float):
        super().__init__()
        self.thresh = thresh

    def forward(self, features: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Arguments and result as `CReLU.forward`."""
        return torch.where(normalised_attention(scores, labels) < self.thresh, features, 0)

    def extra_repr(self) -> str:
        return f"thresh={self.thresh}"
