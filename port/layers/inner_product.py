"""InnerProduct, and its sparse relative Embed."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from port.gradient import refuse_gradient, reread
from port.labels import class_numbers
from port.layer import Layer, being_exported, layer
from prototxt.layers.inner_product import annealed, margin_settings
from prototxt.layers.windows import canonical_axis


@layer("InnerProduct")
class InnerProduct(Layer):
    """A matrix product over the axes from `axis` on, flattened.

    happynear's `normalize` first makes the weight's rows of length 1, for good; the gradient does not go through that.
    """

    def set_up(self) -> None:
        self.axis = canonical_axis(self.param.inner_product_param.axis, len(self.plan.bottom_shapes[0]))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (*self.blobs, None)[:2]
        if self.param.inner_product_param.normalize:
            weight = _unit_rows(weight)
        if self.param.inner_product_param.transpose:
            weight = weight.T
        return F.linear(x.flatten(self.axis), weight, bias)


@layer("Embed")
class Embed(Layer):
    """A row of the weights for each index: InnerProduct on one-hot vectors. The indices get no gradient."""

    def forward(self, indices: Tensor) -> Tensor:
        weight, *bias = self.blobs
        top = F.embedding(class_numbers(indices, weight.shape[0], what="index"), weight)
        top = top + bias[0] if bias else top
        return refuse_gradient(self, top, indices, 0, "indices")


@layer("InnerDistance")
class InnerDistance(Layer):
    """Each item's squared (or L1) distance to each centre: the weight's rows, or the items of bottom 1."""

    def forward(self, x: Tensor, centers: Tensor | None = None) -> Tensor:
        bottoms = (x,) if centers is None else (x, centers)
        (shape,) = self.plan.top_shapes(*(tuple(bottom.shape) for bottom in bottoms))
        if centers is None:
            centers = self.blobs[0]
            if self.param.inner_distance_param.normalize:  # for good, as published
                centers = _unit_rows(centers)

        def distances(x: Tensor, centers: Tensor) -> Tensor:
            rows = centers.flatten(1)
            difference = x.reshape(math.prod(shape[:-1]), 1, rows.shape[1]) - rows
            if self.param.inner_distance_param.distance_type == "L1":
                return difference.abs().sum(2).reshape(shape)
            return difference.square().sum(2).reshape(shape)

        # Autograd saves the difference, not the bottoms.
        return reread(distances, x, centers) if self.plan.overwritten_reads else distances(x, centers)


def _unit_rows(weight: Tensor) -> Tensor:
    """The weight with rows of length 1: itself, changed in place, as happynear's CPU code does."""
    if being_exported():
        return weight / (weight.square().sum(1, keepdim=True) + 1e-6).sqrt()
    rows = weight.data  # as two layers may share the weight before the backward pass
    rows /= (rows.square().sum(1, keepdim=True) + 1e-6).sqrt()
    return weight


@layer("LargeMarginInnerProduct", "MarginInnerProduct")
class MarginInnerProduct(Layer):
    """L-Softmax's and SphereFace's product: the label's cosine is taken at a multiple of the angle.

    `type` 0 to 3 counts the angle 1 to 4 times; lambda mixes the plain product in, less with each pass.
    """

    def set_up(self) -> None:
        self.settings, self.passes = margin_settings(self.param), 0

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        weight, param = self.blobs[0], self.settings
        sphere = self.param.type == "MarginInnerProduct"
        if sphere:
            with torch.no_grad():
                weight /= weight.norm(dim=1, keepdim=True)
        self.passes += 1
        share = annealed(param, self.passes)
        rows = x.reshape(-1, weight.shape[1])
        if param.type == 0:
            y = rows @ weight.T
        elif sphere:
            y = _Sphere.apply(rows, weight, class_numbers(labels, len(weight)).flatten(), param.type, share)
        else:
            numbers = class_numbers(labels, len(weight)).reshape(-1, 1)
            products = rows @ weight.T
            plain = products.gather(1, numbers)
            sizes = rows.norm(dim=1, keepdim=True) * weight[numbers[:, 0]].norm(dim=1, keepdim=True) + 1e-9
            own = (share * plain + sizes * _multiplied(plain / sizes, param.type)) / (1 + share)
            y = products.scatter(1, numbers, own)
        (shape, *_) = self.plan.top_shapes(tuple(x.shape), tuple(labels.shape))
        return (y.reshape(shape), x.new_full((1,), share))[: len(self.plan.tops)]


def _multiplied(cosine: Tensor, kind: int) -> Tensor:
    """psi of kind + 1 times the angle: (-1)^k cos(m θ) - 2k, by polynomials; k is constant for the gradient."""
    c, sign = cosine, cosine.detach().sign()
    if kind == 1:
        return 2 * sign * c.square() - 1
    if kind == 2:
        outer = (c.detach().abs() - 0.5).sign()
        return outer * (4 * c**3 - 3 * c) + sign * (1 + outer) - 2
    outer = sign * (2 * c.detach().square() - 1).sign()
    return outer * (8 * c**4 - 8 * c.square() + 1) + 2 * sign + outer - 3


class _Sphere(torch.autograd.Function):
    """SphereFace's product of unit weights, with the published gradients.

    The weights' is the plain product's. What goes to x through the label's cosine is c_w · w + c_x · x, of which
    (c_w, c_x) is made a vector of length 1.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, numbers: Tensor, kind: int, share: float) -> Tensor:
        y = x @ weight.T
        plain, length = y.gather(1, numbers[:, None]), x.norm(dim=1, keepdim=True)
        cosine = plain / length
        ctx.save_for_backward(x, weight, numbers, cosine, length)
        ctx.kind, ctx.share = kind, share
        own = (share * plain + length * _multiplied(cosine, kind)) / (1 + share)
        return y.scatter(1, numbers[:, None], own)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, numbers, cosine, length = ctx.saved_tensors
        own, cosine = weight[numbers], cosine.detach().requires_grad_()
        with torch.enable_grad():
            psi = _multiplied(cosine, ctx.kind)
            (slope,) = torch.autograd.grad(psi.sum(), cosine)
        both = torch.cat([slope, (psi - cosine * slope).detach() / length], 1)
        to_w, to_x = (both / both.norm(dim=1, keepdim=True)).split(1, 1)
        mine = grad.gather(1, numbers[:, None])
        others = grad.scatter(1, numbers[:, None], mine * ctx.share / (1 + ctx.share))
        d_x = others @ weight + mine / (1 + ctx.share) * (to_w * own + to_x * x)
        return d_x, grad.T @ x, None, None, None
