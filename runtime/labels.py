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
