"""In which order a list is read: from `skip` on, around and around, reshuffled at every round."""

from typing import Any

from prototxt.errors import InputError
from runtime.rng import CaffeRNG

MOST_DRAWN = 1 << 62
"""Items that no training draws."""


def saved_place(place: object, count: int) -> int:
    """A place that was saved, in a list of `count`; raises ValueError for what is none."""
    if type(place) is not int or not 0 <= place < count:
        raise ValueError("a position lies outside of its list")
    return place


def saved_order(order: object, count: int) -> list[int]:
    """An order that was saved, of a list of `count`; raises ValueError for what is none."""
    if (
        not isinstance(order, list)
        or not all(type(index) is int for index in order)
        or sorted(order) != list(range(count))
    ):
        raise ValueError("an order does not name each item of its list once")
    return list(order)


class ListOrder:
    """Indices into a list of `count`, drawn as ImageData draws them.

    What Caffe draws from the process's generator at set-up is drawn here: the shuffle's seed, then the skip.

    Raises:
        InputError: where the skip leaves nothing.
    """

    def __init__(self, count: int, shuffle: bool, rand_skip: int, rng: CaffeRNG):
        self.indices = list(range(count))
        self.position = 0
        self.rng = CaffeRNG(int(rng.words(1)[0])) if shuffle else None
        self._shuffle()
        if rand_skip:
            self.position = int(rng.words(1)[0]) % rand_skip
            if self.position >= count:
                raise InputError(
                    f"rand_skip drew {self.position} of {rand_skip}, of {count} images: lower it"
                )

    def take(self, n: int) -> list[int]:
        """The next `n` indices."""
        taken = []
        for _ in range(n):
            taken.append(self.indices[self.position])
            self.position += 1
            if self.position == len(self.indices):
                self.position = 0
                self._shuffle()
        return taken

    def peek(self) -> int:
        """The index that `take` gives next."""
        return self.indices[self.position]

    def state(self) -> dict[str, Any]:
        # `indices` is never changed in place, so that states cost nothing.
        return {"position": self.position, "order": self.indices, "shuffle": self.rng and self.rng.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises InputError where one of them shuffles and the other does not."""
        if (state["shuffle"] is None) != (self.rng is None):
            raise InputError("the saved order is of another shuffle setting: resume with the same net")
        count = len(self.indices)
        self.indices = saved_order(state["order"], count)
        self.position = saved_place(state["position"], count)
        if self.rng:
            self.rng.restore(state["shuffle"])

    def _shuffle(self) -> None:
        """Caffe shuffles what the last round left, not the list as it was."""
        if self.rng:
            self.indices = list(self.indices)
            self.rng.shuffle(self.indices)
