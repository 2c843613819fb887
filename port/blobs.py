"""The blobs of one pass through a net, where layers in place overwrite what Caffe's backward reads again."""

import contextlib
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from port.layer import Layer, as_tuple, being_exported
from port.layers.python import ScriptLayer
from prototxt.plan import LayerPlan, Plan


class Blobs(dict[int, Tensor]):
    """Tensors by blob index, as a pass goes on. A blob that is worked on in place is the last layer's.

    Args:
        exact: differentiate what each layer computed, and not what Caffe finds in the blobs afterwards.
    """

    def __init__(self, plan: Plan, exact: bool = False):
        super().__init__()
        self._memory, self._mates = plan.memory, plan.memory_mates
        self._exact = exact or being_exported()
        self._weights: dict[int, Tensor] = {}
        # Without graphs: what autograd's saved tensors lead to must not lead back to them.
        self._now: dict[int, Tensor] = {}
        # What was last written to a memory that blobs share, and after how many writes. The others get it when they
        # are read: a Split may have thousands of tops, each worked on in place.
        self._last: dict[int, tuple[int, Tensor]] = {}
        self._writes: dict[int, int] = {}

    def bottoms(self, plan: LayerPlan) -> tuple[Tensor, ...]:
        """A layer's bottoms, cut off from the graph where the prototxt's propagate_down says so.

        Its force_backward, which the plan follows, overrules that.
        """
        bottoms = tuple(self.current(i) for i in plan.bottoms)
        if not plan.param.propagate_down:
            return bottoms
        wanted = zip(bottoms, plan.param.propagate_down, plan.propagate_down, strict=True)
        return tuple(bottom if asked or forced else bottom.detach() for bottom, asked, forced in wanted)

    def run(self, plan: LayerPlan, layer: Layer, bottoms: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run a layer that has bottoms and keep its tops, which are returned."""
        if plan.declared.script:
            return self._run_script(plan, layer, bottoms)
        caffes = torch.is_grad_enabled() and not self._exact
        reads = plan.overwritten_reads if caffes else ()
        rereading = Rereading()
        with rereading if reads else contextlib.nullcontext():
            tops = as_tuple(layer(*bottoms))
        result = tuple(_Lost.apply(top) for top in tops) if plan.loses_gradient and caffes else tops
        self.keep(plan, result)
        for i, tensor in zip((*plan.bottoms, *plan.tops), (*bottoms, *tops), strict=True):
            if i in reads:
                rereading.take(tensor, self._current(i))
        return result

    def _run_script(
        self, plan: LayerPlan, layer: ScriptLayer, bottoms: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """As `run`, for a script's Python layer: it may have written into its bottoms, too."""
        current: list[Callable[[], Tensor]] = []
        layer.current = None if self._exact else current
        tops = as_tuple(layer(*bottoms))
        self.keep(plan, tops)
        for i, value in layer.written.items():
            self[i] = _Overwritten.apply(self.current(i), value)
            self._written(i, value)
        current += [self._current(i) for i in (*plan.bottoms, *plan.tops)]
        layer.current, layer.written = None, {}  # the graph has what it needs
        return tops

    def keep(self, plan: LayerPlan, tops: Iterable[Tensor]) -> None:
        """Make `tops` the values of a layer's tops, and of whatever lies in their memory, if in place."""
        in_place = frozenset(plan.bottoms)
        for i, top in zip(plan.tops, tops, strict=True):
            if plan.type == "Parameter":
                self._weights[i] = top
            self[i] = top
            if i in self._mates:
                self._writes[i] = self._last_write(i)
            if i in in_place:
                self._written(i, top)

    def _written(self, blob: int, value: Tensor) -> None:
        """Keep the value that was written into the blob's memory for whatever lies there, too."""
        if blob in self._weights:
            self._weights[blob].data.copy_(value)
        if blob in self._mates:
            self._writes[blob] = self._last_write(blob) + 1
            self._last[self._memory[blob]] = self._writes[blob], value.detach()
        if self._memory[blob] in self._now:
            self._now[self._memory[blob]] = value.detach()

    def _last_write(self, blob: int) -> int:
        return self._last[self._memory[blob]][0] if self._memory[blob] in self._last else 0

    def current(self, blob: int) -> Tensor:
        """The blob, with what was last written into its memory."""
        if blob in self._mates and self._writes.get(blob, 0) < self._last_write(blob):
            self._writes[blob], value = self._last[self._memory[blob]]
            self[blob] = _Overwritten.apply(self[blob], value)
        return self[blob]

    def all_current(self) -> "Blobs":
        """Itself, once every blob has what was last written into its memory."""
        for blob in self._mates:
            if blob in self:
                self.current(blob)
        return self

    def _current(self, blob: int) -> Callable[[], Tensor]:
        """What the blob's memory holds by the time of the call."""
        now, memory = self._now, self._memory[blob]
        now.setdefault(memory, self.current(blob).detach())
        return lambda: now[memory]


class Rereading(saved_tensors_hooks):
    """While a layer runs: what autograd saves of the blobs named to `take` is read from there in backward."""

    def __init__(self) -> None:
        self._blobs: dict[int, Callable[[Tensor], Tensor]] = {}
        super().__init__(Tensor.detach, self._read)

    def take(self, tensor: Tensor, current: Callable[[], Tensor]) -> None:
        """`current` gives what the blob holds by then, in whatever shape; `tensor` is what it holds now."""
        shape, stride, offset = tensor.shape, tensor.stride(), tensor.storage_offset()
        contiguous = tensor.is_contiguous()

        def read(saved: Tensor) -> Tensor:
            value = current().to(saved).reshape(shape).contiguous()
            if not contiguous:
                value = torch.empty_strided(shape, stride, dtype=saved.dtype, device=saved.device).copy_(
                    value
                )
            return value.as_strided(saved.shape, saved.stride(), saved.storage_offset() - offset)

        self._blobs[_storage(tensor)] = read

    def _read(self, saved: Tensor) -> Tensor:
        read = self._blobs.get(_storage(saved))
        return read(saved) if read and saved.numel() else saved


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Overwritten(torch.autograd.Function):
    """A blob of which the data, but not the gradient, is another's: they share memory in Caffe."""

    @staticmethod
    def forward(ctx, blob: Tensor, other: Tensor) -> Tensor:
        return other.detach().reshape(blob.shape).clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Lost(torch.autograd.Function):
    """A blob whose gradient never arrives: see `prototxt.layers.memory.lost_gradients`."""

    @staticmethod
    def forward(ctx, blob: Tensor) -> Tensor:
        return blob.view_as(blob)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.zeros_like(grad)
