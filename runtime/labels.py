"""The one wording for a label, or an index, that is out of range."""

from prototxt.errors import InputError


class LabelError(InputError):
    """A label that no class has. A net that knows where its labels came from can say so.

    Attributes:
        label: the number.
    """

    def __init__(self, label: float, classes: int, what: str = "label"):
        hint = ", nor the ignore_label" if what == "label" else ""
        super().__init__(f"{what} {label:g} is not from 0 to {classes - 1}{hint}: correct it")
        self.label = label


def check_pixels(
    row: float, column: float, least: float, image: float, shape: tuple[int, ...], rate: int
) -> None:
    """Hold the largest row, column and image, and the least image, that RandBI's pixels name to a map.

    Raises:
        InputError: a pixel that the map does not have.
    """
    num, _, height, width = shape
    if least < 0 or image >= num or row >= height or column >= width:
        raise InputError(
            f"a pixel lies outside of a map of {num} images, {height}×{width} at rate {rate}: correct the rows of "
            "image, y and x"
        )
