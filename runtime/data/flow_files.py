"""FLOWriter's files: a flow of two channels each, in the .flo form of the Middlebury benchmark."""

from pathlib import Path

import numpy as np

from prototxt.caffe_pb2 import WriterParameter
from prototxt.layers.declare import legacy_shape
from runtime.data.output import held_back
from weights.files import atomic_path, plain_os_errors


class FlowFiles:
    """FLOWriter's: `file`, or FOLDER/PREFIX0000000SUFFIX.flo for each image, numbered in brackets if there are more.

    The seven digits are a solver's iteration in FlowNet2's Caffe. A net that is tested alone has none: they are 0, and
    each pass writes over the last one's files.
    """

    def __init__(self, param: WriterParameter):
        self.param = param

    def write(self, flow: np.ndarray) -> None:
        """Raises InputError where a file cannot be written."""
        if held_back():
            return
        flow = flow.reshape(legacy_shape(flow.shape))
        for n, (x, y) in enumerate(flow):
            path = Path(self._name(n, len(flow)))
            with plain_os_errors():
                if self.param.folder:
                    Path(self.param.folder).mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as beside, open(beside, "wb") as file:
                    file.write(b"PIEH")
                    file.write(np.array(x.shape[::-1], "<i4").tobytes())
                    file.write(np.stack([x, y], axis=-1).astype("<f4").tobytes())

    def _name(self, n: int, num: int) -> str:
        if self.param.HasField("file"):
            return self.param.file
        number = f"({n:03d})" if num > 1 else ""
        return f"{self.param.folder}/{self.param.prefix}{0:07d}{number}{self.param.suffix}.flo"
