"""HDF5Output: what a net computed, as a file."""

from torch import Tensor

from port.layer import Layer, Shape, layer
from pycaffe.data.output import HDF5Pass


@layer("HDF5Output")
class HDF5Output(Layer):
    """Writes its two bottoms to `hdf5_output_param.file_name`, once."""

    def set_up(self, data: Shape, label: Shape) -> None:
        self.file = HDF5Pass(self.param.hdf5_output_param)

    def top_shapes(self, data: Shape, label: Shape) -> list[Shape]:
        self.file.check(tuple(data), tuple(label))
        return []

    def forward(self, *bottoms: Tensor) -> tuple[()]:
        self.file.write(*(bottom.detach().cpu().numpy() for bottom in bottoms))
        return ()
