"""PASCAL VOC images with several labels each: what pycaffe's VOC layer and the built-in one do.

Needs NumPy and OpenCV only, so that `voc_layers.py` runs under genuine Caffe with only this file beside it.
"""

import ast
import os
import stat

import cv2
import numpy as np

MAX_LIST, MAX_IMAGE = 1 << 28, 1 << 29
"""Bytes of a list, and of an encoded image, that are read."""

DEFAULTS = {
    "list": "",
    "images": "",
    "suffix": ".jpg",
    "classes": 20,
    "batch": 1,
    "short_side": 0,
    "size": 0,
    "crop": 0,
    "mirror": True,
    "order": "shuffle",
    "seed": 1,
    "mean": (104.007, 116.669, 122.679),
}
"""The settings of `param_str`; see `VocImages`."""


def settings_of(param_str, error=ValueError):
    """`param_str`, a literal dict, over DEFAULTS; raises `error` for anything else or an unknown setting."""
    try:
        given = ast.literal_eval(param_str.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        given = None
    if not isinstance(given, dict):
        shown = param_str if len(param_str) <= 200 else param_str[:200] + " …"
        raise error(f"param_str {shown!r} is not a dict: write {{'list': …, 'images': …}}")
    unknown = sorted(set(given) - set(DEFAULTS), key=str)
    if unknown:
        raise error(f"param_str: {unknown[0]!r} is no setting: there are {', '.join(DEFAULTS)}")
    return {**DEFAULTS, **given}


class VocImages:
    """Batches of images, resized, cropped, mirrored, less the mean, and their classes as 0 and 1.

    Args:
        settings: a dict:
            list: file of lines `NAME CLASS [CLASS …]`, classes from 0, as `train_cls.txt` has them.
            images, suffix: NAME's image is `images/NAMEsuffix`.
            classes: how many there are.
            batch: images in a batch; more than one needs `size` or `crop`.
            short_side: resize so that the shorter side is this; or
            size: resize to this height and width, one number or (height, width); 0 and 0: leave as it is.
            crop: cut out a square of this side; at random when training, else at the centre; 0: do not.
            mirror: half of the images, at random.
            order: "shuffle" (every image once in a round), "random" (each drawn anew, as the authors' next
                release trains) or "list".
            seed: of the draws; `random_seed` of a solver does not reach a Python layer.
            mean: blue, green, red, subtracted after resizing.
        train: whether crops are random.
        share: gives (rank, count): a rank reads every count-th image. Draws are the same on all ranks.
        error: the class of what is raised, with one line that names the file, the line and the item.

    Attributes:
        shapes: of the two tops, (batch, 3, height, width) and (batch, classes); where images keep their own
            sizes, the next image's.
    """

    def __init__(self, settings, train=True, share=lambda: (0, 1), error=ValueError):
        self.settings, self.train, self.share, self.error = settings, train, share, error
        self._check()
        self.entries = self._read_list()
        self.random = np.random.RandomState(settings["seed"])
        self.indices, self.position, self.offset = None, len(self.entries), 0
        self.shapes = self._shapes()

    def draw(self):
        """The next batch: for each image its entry and three random words (mirror, top, left)."""
        return [self._next() for _ in range(self.settings["batch"])]

    def load(self, drawn):
        """(batch, 3, height, width) and (batch, classes), float32, of what `draw` gave."""
        images = [self._load_image(entry, words) for entry, words in drawn]
        for image, (entry, _) in zip(images, drawn):  # noqa: B905  (older Pythons)
            if image.shape != images[0].shape:
                raise self.error(f"{self._place(entry)}: images of a batch differ in size: set size or crop")
        labels = np.zeros((len(drawn), self.settings["classes"]), np.float32)
        for row, (entry, _) in zip(labels, drawn):  # noqa: B905
            row[list(entry[2])] = 1
        return np.stack(images), labels

    def items(self, drawn):
        """What each of a drawn batch is, for messages."""
        return [self._place(entry) for entry, _ in drawn]

    def state(self):
        """Position, order and generator as plain data."""
        _, key, place, _, _ = self.random.get_state()
        return {
            "position": self.position,
            "offset": self.offset,
            "order": self.indices,
            "random": [key.tolist(), int(place)],
        }

    def restore(self, state):
        """Go on where `state()` was taken; raises `error` for the state of another list."""
        if state["order"] is not None and len(state["order"]) != len(self.entries):
            raise self.error(
                f"the saved order is of {len(state['order'])} images, {self.settings['list']} has "
                f"{len(self.entries)}: resume with the same list"
            )
        count, order = len(self.entries), state["order"]
        random = _checked_generator(*state["random"])
        if not (_whole(state["position"], 0) and state["position"] <= count and _whole(state["offset"], 0)):
            raise ValueError("a position lies outside of the list")
        if (order is None and state["position"] < count) or (
            order is not None and sorted(order) != list(range(count))
        ):
            raise ValueError("an order does not name each image once")
        self.position, self.offset, self.indices = state["position"], state["offset"], order
        self.random.set_state(random)

    def _next(self):
        while True:
            drawn = self._draw_one()
            rank, count = self.share()
            mine = self.offset % count == rank
            self.offset += 1
            if mine:
                return drawn

    def _draw_one(self):
        count = len(self.entries)
        if self.settings["order"] == "random":
            index = self.random.randint(0, count)
        else:
            if self.position == count:
                shuffle = self.settings["order"] == "shuffle"
                order = self.random.permutation(count) if shuffle else np.arange(count)
                self.indices = order.tolist()  # never changed in place, so that states cost nothing
                self.position = 0
            index = self.indices[self.position]
            self.position += 1
        words = self.random.randint(0, 1 << 32, 3, np.uint32)
        return self.entries[index], [int(word) for word in words]

    def _load_image(self, entry, words):
        image = self._resized(self._read(entry))
        height, width = image.shape[:2]
        crop = self.settings["crop"]
        if crop:
            if min(height, width) < crop:
                raise self.error(
                    f"{self._place(entry)}: {height}×{width} pixels, smaller than the crop, {crop}"
                )
            spare = height - crop, width - crop
            top, left = (words[1] % (spare[0] + 1), words[2] % (spare[1] + 1))
            if not self.train:
                top, left = spare[0] // 2, spare[1] // 2
            image = image[top : top + crop, left : left + crop]
        image = (image - np.array(self.settings["mean"])).astype(np.float32)
        if self.settings["mirror"] and words[0] % 2:
            image = image[:, ::-1]
        return image.transpose(2, 0, 1)

    def _resized(self, image):
        """Bicubic, on floats, which may leave 0 … 255, as the authors' next release has it."""
        image = image.astype(np.float32)
        size, short_side = self.settings["size"], self.settings["short_side"]
        if size:
            height, width = (size, size) if isinstance(size, int) else size
            return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        if short_side:
            scale = float(short_side) / min(image.shape[:2])
            return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        return image

    def _read(self, entry):
        path = os.path.join(self.settings["images"], entry[0] + self.settings["suffix"])
        try:
            data = np.frombuffer(_ordinary(path, MAX_IMAGE), np.uint8)
        except (OSError, ValueError) as cause:
            raise self.error(f"{self._place(entry)}: {path} cannot be read ({_told(cause)})")  # noqa: B904
        try:
            image = _decoded(data)
        except ValueError as cause:
            raise self.error(f"{self._place(entry)}: {path} {cause}")  # noqa: B904
        if image is None:
            raise self.error(f"{self._place(entry)}: {path} does not decode as an image")
        return image

    def _place(self, entry):
        return f"{self.settings['list']}:{entry[1]}: {entry[0]}"

    def _shapes(self):
        settings = self.settings
        batch, side, size = settings["batch"], settings["crop"], settings["size"]
        if side:
            height = width = side
        elif size:
            height, width = (size, size) if isinstance(size, int) else size
        else:
            before = self.state()
            ((entry, _), *_) = self.draw()
            self.restore(before)
            height, width = self._resized(self._read(entry)).shape[:2]
        return [(batch, 3, height, width), (batch, settings["classes"])]

    def _read_list(self):
        """(name, line number, classes) of each line that is not blank."""
        path, classes = self.settings["list"], self.settings["classes"]
        try:
            lines = _ordinary(path, MAX_LIST).decode("utf-8").splitlines()
        except (OSError, ValueError) as cause:
            raise self.error(f"{path or 'param_str list'}: cannot be read ({_told(cause)})")  # noqa: B904
        entries = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, *labels = line.split()
            if not labels:
                raise self.error(f"{path}:{number}: {name}: names no class")
            for label in labels:
                if not _is_number(label) or int(label) >= classes:
                    raise self.error(f"{path}:{number}: {name}: class {label} is not from 0 to {classes - 1}")
            entries.append((name, number, tuple(int(label) for label in labels)))
        if not entries:
            raise self.error(f"{path}: is empty: list at least one image")
        return entries

    def _check(self):
        settings = self.settings
        for name in ("batch", "classes"):
            if not _whole(settings[name], 1):
                raise self.error(f"param_str: {name} {settings[name]!r}: give 1 or more")
        for name in ("short_side", "crop", "seed"):
            if not _whole(settings[name], 0):
                raise self.error(f"param_str: {name} {settings[name]!r}: give a whole number, 0 or more")
        if settings["seed"] >= 1 << 32:
            raise self.error(f"param_str: seed {settings['seed']}: give one below 4294967296")
        for name in ("list", "images", "suffix"):
            if not isinstance(settings[name], str):
                raise self.error(f"param_str: {name} {settings[name]!r}: give a text in quotes")
        size = settings["size"]
        pair = isinstance(size, (tuple, list)) and len(size) == 2 and all(_whole(n, 1) for n in size)
        if not (pair or _whole(size, 0)):
            raise self.error(f"param_str: size {size!r}: give one number or (height, width)")
        if size and settings["short_side"]:
            raise self.error("param_str: short_side and size: give one of them")
        if settings["order"] not in ("shuffle", "random", "list"):
            raise self.error(f"param_str: order {settings['order']!r} is none of 'shuffle', 'random', 'list'")
        mean = settings["mean"]
        if not (isinstance(mean, (tuple, list)) and len(mean) == 3 and all(map(_real, mean))):
            raise self.error(f"param_str: mean {settings['mean']!r}: give three numbers, blue, green, red")
        if settings["batch"] > 1 and not (size or settings["crop"]):
            raise self.error("param_str: a batch of several images needs size or crop")


def _whole(value, least):
    return isinstance(value, int) and least <= value <= 1 << 48


def _real(value):
    return isinstance(value, (int, float)) and abs(value) <= 1 << 48


def _is_number(text):
    return len(text) <= 9 and text.isdecimal() and text.isascii()


def _ordinary(path, most):
    """The bytes of an ordinary file, at most so many: a FIFO would be waited for, /dev/zero would never end."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("not an ordinary file")
        if found.st_size > most:
            raise ValueError(f"larger than the {most >> 20} MB that are read of such a file")
        return file.read()


def _decoded(data):
    """Blue, green, red, or None where it does not decode; with the port's limit of pixels where the port is."""
    try:
        from runtime.data.decoding import decode_image
    except ImportError:
        return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    return decode_image(data.tobytes(), cv2.IMREAD_COLOR)


def _told(error):
    """What went wrong, shortly."""
    if isinstance(error, UnicodeDecodeError):
        return "not text"
    return getattr(error, "strerror", None) or str(error)


def _checked_generator(key, place):
    """The state of NumPy's generator; raises ValueError for numbers by which it would read outside of its table."""
    key = np.array(key)
    if key.shape != (624,) or key.dtype.kind != "i" or key.min() < 0 or key.max() >= 1 << 32 or not key.any():
        raise ValueError("a generator's state has 624 words")
    if not (isinstance(place, int) and 0 <= place <= 624):
        raise ValueError("a generator's place is from 0 to 624")
    return ("MT19937", key.astype(np.uint32), place)
