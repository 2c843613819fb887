"""NumPy twins of the Cython helpers that py-faster-rcnn's layers import: `nms.cpu_nms`, `utils.cython_bbox`, ….

They take the place of what a project's own build would have made, and only where that cannot be found.
Boxes are (x1, y1, x2, y2), both corners inside, so that a box of one pixel has the area 1.
"""

import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType

import numpy as np


def cpu_nms(dets: np.ndarray, thresh: float) -> list[int]:
    """Indices of the boxes that stand, the highest score first; overlaps from `thresh` on are suppressed.

    Args:
        dets: (N, 5) float32, boxes and scores.
    """
    return _suppress(dets, lambda overlap: overlap >= thresh)


def gpu_nms(dets: np.ndarray, thresh: float, device_id: int = 0) -> list[int]:
    """As `cpu_nms`, but an overlap of exactly `thresh` stands, as in the project's CUDA code."""
    return _suppress(dets, lambda overlap: overlap > np.float32(thresh))


def bbox_overlaps(boxes: np.ndarray, query_boxes: np.ndarray) -> np.ndarray:
    """(N, K) float64: the intersection over union of (N, 4) and (K, 4) boxes."""
    boxes, queries = np.asarray(boxes, np.float64)[:, None], np.asarray(query_boxes, np.float64)[None]
    inside = _intersection(boxes, queries)
    return inside / (_area(boxes) + _area(queries) - inside)


def _suppress(dets: np.ndarray, too_near: Callable[[np.ndarray], np.ndarray]) -> list[int]:
    order = dets[:, 4].argsort()[::-1]
    keep = []
    while len(order):
        first, rest = order[0], order[1:]
        keep.append(int(first))
        inside = _intersection(dets[first], dets[rest])
        overlap = inside / (_area(dets[first]) + _area(dets[rest]) - inside)
        order = rest[~too_near(overlap)]
    return keep


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + 1
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + 1
    return np.maximum(width, 0) * np.maximum(height, 0)


MODULES: dict[str, dict[str, Callable]] = {
    "nms.cpu_nms": {"cpu_nms": cpu_nms},
    "nms.gpu_nms": {"gpu_nms": gpu_nms},
    "utils.cython_bbox": {"bbox_overlaps": bbox_overlaps},
    "utils.cython_nms": {"nms": cpu_nms},
}


class _Finder(MetaPathFinder, Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__.update(MODULES[module.__name__])


@contextmanager
def cython_helpers() -> Iterator[None]:
    """Let the helpers be imported inside the block, where the project has none of its own."""
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
