"""pycaffe's interface over the NumPy reference: use it in place of `import caffe`.

    from reference import pycaffe as caffe
    net = caffe.Net("deploy.prototxt", "net.caffemodel", caffe.TEST)

or run an old script: `python -m reference.pycaffe SCRIPT [ARG…]`. The reference computes forward and
backward passes in float32, or in float64 with `Net(…, dtype=numpy.float64)`; it does not train.
"""

import sys
from typing import Any

import numpy as np

import reference.layers  # noqa: F401  (registers the layers)
from prototxt.errors import InputError
from prototxt.own import OWN_FIELDS
from prototxt.plan import LayerPlan, Step
from reference.layer import LAYERS, PYTHON_LAYERS
from reference.solver import SGDSolver
from runtime import TEST, TRAIN, Layer, run_script
from runtime import Net as _Net
from runtime.data.sources import open_source
from runtime.net import EngineLayer
from runtime.pycaffe import coord_map, draw, io, net_spec, proto
from runtime.pycaffe.net_spec import NetSpec, layers, params, to_proto
from runtime.python_layer import find_layer_class
from runtime.rng import set_random_seed
from runtime.set_up import Opened

__all__ = [
    "TEST",
    "TRAIN",
    "Layer",
    "Net",
    "NetSpec",
    "SGDSolver",
    "coord_map",
    "draw",
    "io",
    "layer_type_list",
    "layers",
    "net_spec",
    "params",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
    "to_proto",
]


class Net(_Net):
    """A net computed in NumPy; see `runtime.Net`."""

    def _open_layer(self, step: Step) -> Opened | type | None:
        if step.param.type != "Python":
            return open_source(step)
        cls = find_layer_class(step.param, PYTHON_LAYERS, self.allow_modules, "reference.pycaffe")
        return None if cls in PYTHON_LAYERS.values() else cls

    def _make_layer(self, plan: LayerPlan, values: list[np.ndarray], opened: Any) -> EngineLayer:
        python = plan.param.python_param
        cls = PYTHON_LAYERS[python.module, python.layer] if plan.type == "Python" else LAYERS.get(plan.type)
        if plan.type in OWN_FIELDS and (cls is None or cls.__module__.startswith("reference.layers.")):
            raise InputError(
                f"{plan.type} is a type of your own, which the reference computes by a NumPy class (reference.layer)"
            )
        if cls is None:
            raise InputError(f"{plan.type} is not supported by the reference")
        return cls(plan, self.dtype, values, opened)


def layer_type_list() -> list[str]:
    """Names of the layer types that the reference carries."""
    return sorted({*LAYERS, "Python"})


def set_mode_cpu() -> None:
    """The reference always computes on the CPU."""


def set_mode_gpu() -> None:
    """Accepted, so that old scripts run; the reference computes on the CPU all the same."""


def set_device(device: int) -> None:
    """Accepted, so that old scripts run."""


if __name__ == "__main__":
    from reference import pycaffe  # this module as others import it

    sys.exit(run_script(pycaffe, sys.argv[1:]))
