"""What a file of weights is of no use without: the net's text, its classes, and how images are prepared."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

KEYS = ("prototxt", "classes", "preprocessing")
"""The entries, each a text: in safetensors' and ONNX's metadata under these names, in zip files as files."""


def net_metadata(
    prototxt: str, classes: Sequence[str] = (), preprocessing: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The entries of a net, as texts.

    Args:
        prototxt: the net's text.
        classes: names by index, of the channels of the scores.
        preprocessing: from a photograph to the input; anything that JSON holds.
    """
    entries = {"prototxt": prototxt}
    if classes:
        entries["classes"] = json.dumps(list(classes))
    if preprocessing:
        entries["preprocessing"] = json.dumps(dict(preprocessing))
    return entries


def parsed_metadata(entries: Mapping[str, str]) -> dict[str, Any]:
    """What `net_metadata` was given, of the texts read back; other entries and empty ones are left out."""
    found = {key: entries[key] for key in KEYS if entries.get(key)}
    return {key: text if key == "prototxt" else json.loads(text) for key, text in found.items()}
