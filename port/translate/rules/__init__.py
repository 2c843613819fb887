"""The Caffe rules that PyTorch lacks: short functions and modules, of which a translated model gets those it uses.

They are copied as text, so each file here imports what a model imports and nothing else.
"""

import inspect
import re
from collections.abc import Iterable

from port.translate.rules import common, detection, flow, losses, recurrent, regions

_FILES = (common, losses, detection, regions, recurrent, flow)
RULES = {
    name: inspect.getsource(rule).rstrip()
    for file in _FILES
    for name, rule in vars(file).items()
    if getattr(rule, "__module__", "") == file.__name__
}
"""Name → text."""


def used_rules(texts: Iterable[str]) -> list[str]:
    """The rules that the texts call, each behind those that it calls itself."""
    found: dict[str, None] = {}
    for text in texts:
        for name in _CALL.findall(text):
            if name in RULES and name not in found:
                own = RULES[name].replace(f"{name}(", "")
                found |= dict.fromkeys([*used_rules([own]), name])
    return list(found)


_CALL = re.compile(r"(?<![.\w\"])\w+(?=\()")
