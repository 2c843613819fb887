"""The product: Caffe's nets, SeeNet first, in PyTorch.

The public names load their modules, and torch, when they are first used: `seenet --help` needs neither.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from port.attention.attend import attend
    from port.attention.maps import attention_maps
    from port.models.crelu import CReLU
    from port.models.deeplab import DeepLabLargeFOV
    from port.models.seenet import SeeNet
    from port.net import CaffeNet
    from prototxt.errors import InputError

__all__ = ["CReLU", "CaffeNet", "DeepLabLargeFOV", "InputError", "SeeNet", "attend", "attention_maps"]

_HOMES = {
    "CReLU": "port.models.crelu",
    "CaffeNet": "port.net",
    "DeepLabLargeFOV": "port.models.deeplab",
    "InputError": "prototxt.errors",
    "SeeNet": "port.models.seenet",
    "attend": "port.attention.attend",
    "attention_maps": "port.attention.maps",
}


def _check_rooms() -> None:
    """End, or raise ImportError, where a file of the user's hides one of this project's packages."""
    home = os.path.dirname(os.path.dirname(__file__))
    for room in ("prototxt", "weights", "runtime"):
        spec = importlib.util.find_spec(room)
        if spec and spec.origin and spec.origin != os.path.join(home, room, "__init__.py"):
            told = f"{spec.origin} hides this project's package {room}: rename it, or run from another folder"
            if os.path.basename(sys.argv[0]) in ("-m", "seenet"):
                sys.exit(f"error: {told}")
            raise ImportError(told)


_check_rooms()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("seenet-caffe")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
