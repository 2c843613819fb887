"""One picture of the generated dataset: objects with a telling part and a plain body, on clutter."""

import colorsys
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from port.voc.classes import CLASSES
from port.voc.settings import KINDS, Kind

Grid = tuple[np.ndarray, np.ndarray]

SCENES = 5
OF_SCENE = len(CLASSES) // SCENES
SAME_SCENE = 0.7


EMBLEM_COLOURS = (
    ((255, 255, 255), (200, 0, 0)),
    ((255, 235, 0), (0, 0, 0)),
    ((0, 255, 255), (150, 0, 150)),
    ((0, 60, 255), (255, 170, 0)),
    ((0, 230, 0), (255, 255, 255)),
)
EMBLEM_AT = (0.55, 0.55, -0.45, 0.5, 0.6)
"""Where on a silhouette's long axis the emblem sits; the body's half length is 1."""
EMBLEM_RADIUS = 0.25


@dataclass(frozen=True)
class Placed:
    """An object: class index, centre in pixels, half length in pixels, angle in radians."""

    label: int
    y: float
    x: float
    radius: float
    angle: float
    touching: bool


@dataclass(frozen=True)
class Picture:
    """One generated image and all that is known of it.

    Attributes:
        image: (height, width, 3) uint8, BGR.
        labels, parts: (height, width) uint8, index + 1 on each object, and on its emblem alone; else 0.
        owner: (height, width) int, which of `objects` is seen there; -1 for the background.
        objects: in the order in which they were painted.
        saliency: (height, width) uint8, simulated, and its measured IoU at 128 with the objects.
    """

    image: np.ndarray
    labels: np.ndarray
    parts: np.ndarray
    owner: np.ndarray
    objects: list[Placed]
    saliency: np.ndarray
    saliency_iou: float


def draw_picture(
    seed: int, index: int, size: int, saliency_iou: float, kind: Kind = KINDS["shapes"]
) -> Picture:
    """Picture `index` of the dataset `seed`: depends on nothing else, so that a larger dataset begins alike.

    A class is known by its emblem at once: a pattern (of four) in two colours (of five pairs), a tenth of the
    object. Its body says the same less plainly: a silhouette (of five) in a hue (of four, far from exact), in
    the colours of the clutter around it; where `kind` is textured, in two shades of that hue. Each class has a
    scene where it is mostly met, with three others.
    """
    random = np.random.default_rng([seed, index])
    short = round(size * random.uniform(0.7, 1.0))
    shape = (short, size) if random.random() < 0.75 else (size, short)
    first = int(random.integers(len(CLASSES)))
    scene = first // OF_SCENE if random.random() < SAME_SCENE else int(random.integers(SCENES))
    canvas = _background(random, shape, scene)
    _clutter(random, canvas)
    objects, owner, on_part = _place_objects(random, shape, first, scene, kind)
    for i, placed in enumerate(objects):
        _paint(random, canvas, placed, owner == i, on_part, kind.textured)
    canvas += random.normal(0, 4, canvas.shape)
    classes = np.array([0] + [placed.label + 1 for placed in objects], np.uint8)
    labels = classes[owner + 1]
    saliency, measured = _saliency(random, labels > 0, saliency_iou)
    image = np.ascontiguousarray(np.rint(canvas.clip(0, 255))[:, :, ::-1], np.uint8)
    return Picture(image, labels, labels * on_part, owner, objects, saliency, measured)


def _background(random: np.random.Generator, shape: tuple[int, int], scene: int) -> np.ndarray:
    """(height, width, 3) float, red green blue: a scene's two colours, mixed by its texture."""
    y, x = _grid(shape)
    height = shape[0]
    rough, fine = _noise(random, shape, height / 3), _noise(random, shape, height / 14)
    phase = random.uniform(0, 6)
    texture = (
        y / height + 0.15 * rough,  # a sky
        0.5 + 0.3 * fine + 0.15 * random.standard_normal(shape),  # grass
        0.5 + 0.3 * np.sin(y / height * random.uniform(30, 45) + 2 * rough + phase),  # water
        0.35 + 0.4 * _bricks(y, x, height * random.uniform(0.1, 0.16)) + 0.1 * rough,  # a wall
        0.5 + 0.35 * np.sin((x + y) / height * random.uniform(20, 35) + phase) * (rough > 0) + 0.1 * fine,
    )[scene]
    low, high = (
        ((120, 160, 205), (205, 200, 190)),
        ((60, 95, 45), (130, 150, 80)),
        ((55, 90, 120), (130, 165, 175)),
        ((95, 70, 60), (170, 130, 110)),
        ((90, 85, 95), (165, 160, 150)),
    )[scene]
    low, high = (np.array(colour) + random.normal(0, 14, 3) for colour in (low, high))
    return low + (high - low) * texture.clip(-0.2, 1.2)[:, :, None]


def _clutter(random: np.random.Generator, canvas: np.ndarray) -> None:
    """Blobs, slabs and strokes of any hue, without an emblem: a body's colour alone tells little."""
    shape = canvas.shape[:2]
    y, x = _grid(shape)
    for _ in range(random.integers(8, 18)):
        radius = shape[0] * random.uniform(0.03, 0.14)
        u, v = _frame(
            y, x, random.uniform(0, shape[0]), random.uniform(0, shape[1]), radius, random.uniform(0, 6.3)
        )
        flat = random.uniform(0.15, 1)
        inside = (u**2 + (v / flat) ** 2 < 1) if random.random() < 0.5 else _box(u, v, 1, flat)
        colour = _rgb(random.random(), random.uniform(0.15, 0.45), random.uniform(0.35, 0.8))
        canvas[inside] = 0.25 * canvas[inside] + 0.75 * colour


def _place_objects(
    random: np.random.Generator, shape: tuple[int, int], first: int, scene: int, kind: Kind
) -> tuple[list[Placed], np.ndarray, np.ndarray]:
    """Objects, which of them each pixel shows (-1: none), and where an emblem is seen.

    A place is drawn anew until it and what it covers stay recognisable: at least half of each object and
    two thirds of each emblem are to be seen.
    """
    wanted = random.choice(range(1, 1 + len(kind.counts)), p=kind.counts)
    objects: list[Placed] = []
    owner, on_part = np.full(shape, -1), np.zeros(shape, bool)
    nominal: list[tuple[int, int]] = []
    for _ in range(60):
        if len(objects) == wanted:
            break
        placed = _draw_place(random, shape, objects, first, scene, kind)
        body, part = object_masks(shape, placed)
        new_owner, new_part = owner.copy(), on_part & ~body
        new_owner[body] = len(objects)
        new_part |= part
        area = np.pi * (EMBLEM_RADIUS * placed.radius) ** 2
        sizes = [*nominal, (int(body.sum()), area)]
        seen = [((new_owner == i).sum(), ((new_owner == i) & new_part).sum()) for i in range(len(sizes))]
        whole = body.sum() > 0.85 * placed.radius**2
        if whole and all(
            a >= 0.5 * body_size and b >= 0.66 * part_size
            for (a, b), (body_size, part_size) in zip(seen, sizes, strict=True)
        ):
            objects, owner, on_part, nominal = [*objects, placed], new_owner, new_part, sizes
    return objects, owner, on_part


def _draw_place(
    random: np.random.Generator,
    shape: tuple[int, int],
    objects: list[Placed],
    first: int,
    scene: int,
    kind: Kind,
) -> Placed:
    radius = min(shape) * random.uniform(
        *(kind.large_radius if random.random() < kind.large else kind.small_radius)
    )
    angle = random.uniform(0, 2 * np.pi)
    touching = bool(objects) and random.random() < kind.touching
    if touching:
        beside = objects[random.integers(len(objects))]
        towards = random.uniform(0, 2 * np.pi)
        reach = (beside.radius + radius) * 0.75
        y, x = beside.y + reach * np.sin(towards), beside.x + reach * np.cos(towards)
    else:
        y, x = (random.uniform(0.6 * radius, side - 0.6 * radius) for side in shape)
    label = first
    if objects:
        label = int(random.integers(len(CLASSES)))
        if random.random() < 0.6:
            label = scene * OF_SCENE + label % OF_SCENE
    return Placed(label, y, x, radius, angle, touching)


def object_masks(shape: tuple[int, int], placed: Placed) -> tuple[np.ndarray, np.ndarray]:
    """(height, width) bool: the whole object, and its emblem."""
    u, v = _frame(*_grid(shape), placed.y, placed.x, placed.radius, placed.angle)
    body = (
        lambda: u**2 + (v / 0.6) ** 2 < 1,
        lambda: _box(u, v, 0.95, 0.5),
        lambda: (u > -0.8) & (np.abs(v) < 0.42 * (1 - u)),
        lambda: ((u - 0.5) ** 2 + v**2 < 0.23) | ((u + 0.45) ** 2 + v**2 < 0.28) | _box(u, v, 0.5, 0.22),
        lambda: _box(u, v, 1, 0.33) | _box(u - 0.6, v, 0.33, 0.75),
    )[placed.label % 5]()
    return body, body & _in_emblem(u, v, placed.label)


def _paint(
    random: np.random.Generator,
    canvas: np.ndarray,
    placed: Placed,
    mask: np.ndarray,
    on_part: np.ndarray,
    textured: bool,
) -> None:
    u, v = _frame(*_grid(mask.shape), placed.y, placed.x, placed.radius, placed.angle)
    kind = placed.label // 5
    hue = kind / 4 + random.normal(0, 0.05)
    body = _rgb(hue % 1, random.uniform(0.35, 0.6), random.uniform(0.5, 0.8))
    shade = 1 + 0.12 * np.sin(2 * u + random.uniform(0, 6)) + 0.05 * v
    if textured:
        shade = shade * np.where(_texture(random, u, v, placed.label) > 0, 1.25, 0.7)
    canvas[mask] = (body * shade[:, :, None])[mask]
    p, q = (u - EMBLEM_AT[placed.label % 5]) / EMBLEM_RADIUS, v / EMBLEM_RADIUS
    pattern = (
        lambda: (p > 0) ^ (q > 0),
        lambda: p**2 + q**2 < 0.4,
        lambda: np.abs(p) < 0.33,
        lambda: np.minimum(np.abs(p), np.abs(q)) < 0.28,
    )[kind]()
    one, other = (np.array(colour, float) for colour in EMBLEM_COLOURS[placed.label % 5])
    emblem = mask & on_part
    canvas[emblem] = np.where(pattern[:, :, None], one, other)[emblem]


def _texture(random: np.random.Generator, u: np.ndarray, v: np.ndarray, label: int) -> np.ndarray:
    """Stripes across or along, checks, dots or slanted stripes, by class: the sign says which of two shades."""
    pitch, phase = random.uniform(13, 18), random.uniform(0, 6)
    return (
        lambda: np.sin(pitch * u + phase),
        lambda: np.sin(pitch * v + phase),
        lambda: np.sin(pitch * u + phase) * np.sin(pitch * v),
        lambda: np.sin(pitch * u + phase) + np.sin(pitch * v) - 0.7,
        lambda: np.sin(0.7 * pitch * (u + v) + phase),
    )[label % 5]()


def _in_emblem(u: np.ndarray, v: np.ndarray, label: int) -> np.ndarray:
    return (u - EMBLEM_AT[label % 5]) ** 2 + v**2 < EMBLEM_RADIUS**2


def _saliency(random: np.random.Generator, objects: np.ndarray, iou: float) -> tuple[np.ndarray, float]:
    """The objects' outline, displaced by smooth noise until the IoU at 128 has sunk to `iou`; and that IoU."""
    shape = objects.shape
    depth = distance_transform_edt(objects) - distance_transform_edt(~objects)
    noise = _noise(random, shape, min(shape) / 6) + 0.5 * _noise(random, shape, min(shape) / 20)

    def at(strength: float) -> tuple[np.ndarray, float]:
        with np.errstate(over="ignore"):
            values = np.rint(255 / (1 + np.exp(-(depth + strength * noise) / 2.5))).astype(np.uint8)
        bright = values >= 128
        return values, float((bright & objects).sum() / max((bright | objects).sum(), 1))

    low, high = 0.0, 2.0 * min(shape)
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[1] > iou else (low, middle)
    return at(low)


def _noise(random: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise about 0, of variance near 1: normal draws `cell` pixels apart, interpolated linearly."""
    counts = [int(side / cell) + 2 for side in shape]
    coarse = random.standard_normal(counts) * 1.5
    (y, dy), (x, dx) = (np.divmod(np.arange(side) / cell, 1) for side in shape)
    y, x = y.astype(int)[:, None], x.astype(int)
    dy = dy[:, None]
    top = coarse[y, x] * (1 - dx) + coarse[y, x + 1] * dx
    bottom = coarse[y + 1, x] * (1 - dx) + coarse[y + 1, x + 1] * dx
    return top * (1 - dy) + bottom * dy


def _bricks(y: np.ndarray, x: np.ndarray, side: float) -> np.ndarray:
    row = y // side
    return ((y % side > 0.14 * side) & ((x + row % 2 * side) % (2 * side) > 0.14 * side)).astype(float)


def _box(u: np.ndarray, v: np.ndarray, half_u: float, half_v: float) -> np.ndarray:
    return (np.abs(u) < half_u) & (np.abs(v) < half_v)


def _grid(shape: tuple[int, int]) -> Grid:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return y.astype(float), x.astype(float)


def _frame(y: np.ndarray, x: np.ndarray, cy: float, cx: float, radius: float, angle: float) -> Grid:
    """Pixels in an object's own coordinates: along its long axis and across, its half length being 1."""
    dy, dx = (y - cy) / radius, (x - cx) / radius
    return np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
