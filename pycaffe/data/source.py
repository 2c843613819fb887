"""What a data layer reads from."""

from typing import Any, Protocol

import numpy as np

Tops = tuple[np.ndarray, ...]


class Source(Protocol):
    """What a data layer reads from."""

    shapes: list[tuple[int, ...]]
    """The tops' shapes at set-up."""

    def draw(self) -> Any:
        """Choose the next batch: moves the position and the generators, decodes nothing."""

    def load(self, drawn: Any) -> Tops:
        """The tops of a drawn batch, float32; runs on any thread and changes nothing."""

    def items(self, drawn: Any) -> list[str]:
        """What each of a drawn batch is, for messages: file, line and name."""

    def state(self) -> dict[str, Any]:
        """Position, order and generators as plain data, which JSON can hold."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken."""
