"""Connectionist temporal classification, of caffe_ocr, by PyTorch's own."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.gradient import refuse_gradient, without_gradient
from port.labels import class_numbers
from port.layer import Layer, layer
from prototxt.layers.ctc import edit_distance


@layer("WarpCTCLoss")
class WarpCTCLoss(Layer):
    """The mean over the streams of CTC's loss. What goes back is the sum's gradient, whatever the loss weight.

    Streams that have too few steps for their labels cost nothing.
    """

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        blank = self.param.ctc_loss_param.blank_index
        steps, streams = scores.shape[:2]
        numbers = class_numbers(labels, scores.shape[2]).reshape(streams, -1)
        with torch.inference_mode(False), torch.enable_grad():
            values = scores.detach().clone().reshape(steps, streams, -1).requires_grad_()
            costs = F.ctc_loss(
                values.log_softmax(2),
                numbers[numbers != blank].clone(),
                torch.full((streams,), steps),
                (numbers != blank).sum(1),
                blank,
                reduction="none",
                zero_infinity=True,
            )
            (slopes,) = torch.autograd.grad(costs.sum(), values)
        loss = _Raw.apply(scores, costs.detach().sum() / streams, slopes.reshape(scores.shape))
        return refuse_gradient(self, loss, labels, 1, "labels")


class _Raw(torch.autograd.Function):
    """A loss whose gradient is given, and heeds nothing that comes back."""

    @staticmethod
    def forward(ctx, scores: Tensor, loss: Tensor, slopes: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return *ctx.saved_tensors, None, None


@layer("CTCGreedyDecoder")
class CTCGreedyDecoder(Layer):
    """(streams, steps, 1, 1) of labels, -1 behind the last; or, given the true labels, two shares of what is right."""

    def forward(self, scores: Tensor, labels: Tensor | None = None) -> Tensor:
        bottoms = (scores,) if labels is None else (scores, labels)
        return without_gradient(self._decoded(*bottoms), *bottoms)

    @torch.no_grad()
    def _decoded(self, scores: Tensor, labels: Tensor | None = None) -> Tensor:
        param = self.param.ctc_decoder_param
        steps, streams, classes = scores.shape[:3]
        blank = param.blank_index if param.blank_index >= 0 else classes - 1
        read = []
        for best in scores.reshape(steps, streams, classes).argmax(2).T:
            if param.ctc_merge_repeated:
                best = best.unique_consecutive()
            read.append(best[best != blank])
        if labels is None:
            rows = [F.pad(found, (0, steps - len(found)), value=-1) for found in read]
            return torch.stack(rows).to(scores.dtype).reshape(streams, steps, 1, 1)
        kept, right = [], 0
        for found, row in zip(read, labels.reshape(streams, -1), strict=True):
            row = (row[(row < 0).cumsum(0) == 0] + 0.5).long()
            wanted, found = row[row != blank].tolist(), found.tolist()
            distance = edit_distance(wanted, found)
            kept.append(1 - distance / max(len(wanted), len(found), 1))
            right += bool(wanted or found) and distance == 0
        return scores.new_tensor([sum(kept) / streams, right / streams]).reshape(1, 2, 1, 1)
