"""DataHeatmap's source: images with joints, and a bump for each joint (tpfister/caffe-heatmap, data_heatmap.cpp).

A line of the list is IMAGE JOINTS CROP CLASS: joints are x,y,x,y,… with commas; CROP is for means of videos, which are
not supported.
"""

import math
import os
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import TRAIN, LayerParameter
from prototxt.errors import InputError
from runtime.c_random import CRandom
from runtime.data.reading import integer, naming, read_lines, read_pixels
from runtime.rng import CaffeRNG

_RAND_MAX = (1 << 31) - 1
_SIGMA = np.float32(1.5)
_MASKED = 40  # of a segmentation, what is brighter is made black
_OF_RMPE = ("data_augment", "bbox_or_centerscale", "scale_width", "scale_height", "shuffle")


@dataclass(frozen=True)
class Joints:
    """One line of the list: x and y of each joint, in units of `multfact` pixels."""

    name: str
    line: int
    places: tuple[float, ...]
    kind: int


@dataclass(frozen=True)
class Cut:
    """How an image is cut: where from, mirrored before that, turned after it (degrees)."""

    joints: Joints
    mirrored: bool = False
    corner: tuple[int, int] = (-1, -1)
    angle: float = 0.0


class JointImages:
    """DataHeatmap: tops (batch, 3, outsize, outsize), RGB, and (batch, joints, label_height, label_width), float32.

    Crops are drawn as published, by C's rand(), which a word of Caffe's generator seeds. In the published code all data
    layers of a process share that generator across their threads, so that a second one would draw from it, and seed it
    anew, at a time that nobody knows; here each has its own.

    Raises:
        InputError: a missing or malformed list, settings that are not supported.
    """

    def __init__(self, layer: LayerParameter, rng: CaffeRNG):
        self.param = layer.heatmap_data_param
        _check(layer)
        transform = layer.transform_param
        if transform.mirror or (layer.phase == TRAIN and transform.crop_size):
            rng.words(1)  # seeds a transformer that draws nothing
        seed = int(rng.words(1)[0])
        self.random = CRandom(seed - (1 << 32) if seed >> 31 else seed)
        self.entries = _read_list(self.param.source, self.param.labelinds)
        self._names = zlib.crc32(repr(self.entries).encode("utf-8", "surrogateescape"))
        self.groups = self._grouped()
        self.group = 0
        self.places = [
            self.random.rand() % len(group) if self.param.sample_per_cluster else 0 for group in self.groups
        ]
        self._sizes: dict[str, tuple[int, int]] = {}
        side = self.param.outsize
        joints = len(self.entries[0].places) // 2
        paired = joints - (1 if self.param.dont_flip_first else 0)
        if self.param.random_crop and self.param.flip_joint_labels and paired % 2:
            raise InputError(f"heatmap_data_param: {paired} joints are not pairs of left and right ones")
        self.shapes: list[tuple[int, ...]] = [
            (self.param.batchsize, 3, side, side),
            (self.param.batchsize, joints, self.param.label_height, self.param.label_width),
        ]
        rng.words(1)  # seeds the thread's generator, from which nothing is drawn

    def _grouped(self) -> list[list[Joints]]:
        """The images by class, of which each is taken in turn; or all of them as one."""
        if not self.param.sample_per_cluster:
            return [self.entries]
        groups: list[list[Joints]] = [[] for _ in range(max(entry.kind for entry in self.entries) + 1)]
        for entry in self.entries:
            groups[entry.kind].append(entry)
        if not all(groups):
            raise InputError(
                f"{self.param.source}: class {groups.index([])} has no image: number them from 0 on"
            )
        return groups

    def draw(self) -> list[Cut]:
        cuts: list[Cut] = []
        skipped = 0
        while len(cuts) < self.param.batchsize:
            joints = self.groups[self.group][self.places[self.group]]
            self.places[self.group] = (self.places[self.group] + 1) % len(self.groups[self.group])
            self.group = (self.group + 1) % len(self.groups)
            if self.param.segmentation and not os.path.exists(self._segmentation(joints)):
                skipped += 1
                if skipped > len(self.entries):
                    raise InputError(
                        f"{self._segmentation(joints)}: no image of the list has a segmentation there"
                    )
                continue
            cuts.append(self._cut(joints))
            skipped = 0
        return cuts

    def _cut(self, joints: Joints) -> Cut:
        height, width = self._size(joints)
        down, across = height - self.param.cropsize, max(0, width - self.param.cropsize)
        if down < 0:
            with naming(self._place(joints)):
                raise InputError(f"is {height} pixels high, less than cropsize {self.param.cropsize}")
        if not self.param.random_crop:
            return Cut(joints, corner=(down // 2, across // 2))
        mirrored = bool(self.random.rand() % 2)
        left, top = self.random.rand() % (across + 1), self.random.rand() % (down + 1)
        share = np.float32(self.random.rand()) / np.float32(_RAND_MAX)
        least = np.float32(-self.param.angle_max)
        angle = least + share * (np.float32(self.param.angle_max) - least)
        return Cut(joints, mirrored, (top, left), float(angle))

    def _size(self, joints: Joints) -> tuple[int, int]:
        """An image's height and width: the draws depend on them."""
        if joints.name not in self._sizes:
            self._sizes[joints.name] = self._pixels(joints).shape[:2]
        return self._sizes[joints.name]

    def load(self, drawn: list[Cut]) -> tuple[np.ndarray, ...]:
        tops = [np.zeros(shape, np.float32) for shape in self.shapes]
        for i, cut in enumerate(drawn):
            with naming(self._place(cut.joints)):
                tops[0][i], tops[1][i] = self._made(cut)
        return tuple(tops)

    def _made(self, cut: Cut) -> tuple[np.ndarray, np.ndarray]:
        param, single = self.param, np.float32
        unit, side = single(param.multfact), param.cropsize
        image: np.ndarray = self._pixels(cut.joints)[:, :, ::-1].astype(np.float32)
        if param.segmentation:
            mask = read_pixels(self._segmentation(cut.joints), False, None, self._where(cut.joints))[:, :, 0]
            if mask.shape != image.shape[:2]:
                raise InputError("its segmentation has another size")
            image[mask > _MASKED] = 0
        if image.shape[1] < side:
            image = np.pad(image, [(0, 0), (0, side - image.shape[1]), (0, 0)])
        joints = np.array(cut.joints.places, np.float32).reshape(-1, 2)
        if cut.mirrored:
            image = image[:, ::-1]
            joints[:, 0] = single(image.shape[1]) / unit - joints[:, 0]
            if param.flip_joint_labels:
                first = 1 if param.dont_flip_first else 0
                pairs = joints[first:].reshape(-1, 2, 2)
                joints[first:] = pairs[:, ::-1].reshape(-1, 2)
        top, left = cut.corner
        image = np.ascontiguousarray(image[top : top + side, left : left + side])
        joints -= np.array([left, top], np.float32) / unit
        if param.random_crop:
            turn = cv2.getRotationMatrix2D((side // 2, side // 2), cut.angle, 1)
            image = cv2.warpAffine(image, turn, (side, side))
            joints = ((joints * unit).astype(np.float64) @ turn[:, :2].T + turn[:, 2]).astype(
                np.float32
            ) / unit
        image = cv2.resize(image, (param.outsize, param.outsize))
        joints *= single(param.outsize) / single(side)
        if param.scale != 1:
            image = image * single(param.scale)
        return image.transpose(2, 0, 1), self._bumps(joints)

    def _bumps(self, joints: np.ndarray) -> np.ndarray:
        """Four times a normal density in one dimension of the distance, for each joint."""
        side = self.param.label_height
        factor = np.float32(side) / np.float32(self.param.outsize)
        x, y = (factor * joints * np.float32(self.param.multfact)).T[:, :, None, None]
        rows, columns = np.arange(side, dtype=np.float32)[:, None], np.arange(side, dtype=np.float32)
        far = (rows - y).astype(np.float64) ** 2 + (columns - x).astype(np.float64) ** 2
        peak = 1 / (float(_SIGMA) * math.sqrt(2 * math.pi))
        narrow = float(np.float32(1) / _SIGMA) ** 2
        return np.float32(4) * (peak * np.exp(-0.5 * far * narrow)).astype(np.float32)

    # ---- files and names

    def _pixels(self, joints: Joints) -> np.ndarray:
        return read_pixels(self.param.root_img_dir + joints.name, True, None, self._where(joints))

    def _segmentation(self, joints: Joints) -> str:
        return f"{self.param.root_img_dir}segs/{joints.name}"

    def _where(self, joints: Joints) -> str:
        return f"{self.param.source}:{joints.line}"

    def _place(self, joints: Joints) -> str:
        return f"{self._where(joints)}: {joints.name}"

    def items(self, drawn: list[Cut]) -> list[str]:
        return [self._place(cut.joints) for cut in drawn]

    def state(self) -> dict[str, Any]:
        return {
            "list": self._names,
            "group": self.group,
            "places": list(self.places),
            "random": self.random.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        if state["list"] != self._names:
            raise InputError(
                f"{self.param.source} is not the list that the saved order is of: resume with the same list, "
                "or without the saved random state"
            )
        self.group, self.places = state["group"], list(state["places"])
        self.random.restore(state["random"])


def _check(layer: LayerParameter) -> None:
    param = layer.heatmap_data_param
    for name in _OF_RMPE:
        if param.HasField(name):
            raise InputError(f"heatmap_data_param: {name}, RMPE's, is not supported")
    if param.HasField("meanfile"):
        raise InputError("heatmap_data_param: meanfile, means of videos, is not supported")
    if min(param.batchsize, param.cropsize, param.outsize, param.multfact, param.label_height) < 1:
        raise InputError(
            "heatmap_data_param: batchsize, cropsize, outsize, multfact and label_height must be at least 1"
        )
    if param.label_width != param.label_height:
        raise InputError(
            "heatmap_data_param: label_width must be label_height: the published code mixes them up"
        )


def _read_list(path: str, chosen: str) -> list[Joints]:
    """The list, of whose joints `chosen` picks numbers, from 1 on: "1,2,5,6".

    Raises:
        InputError: a missing, empty or malformed list.
    """
    wanted = {int(_number(text, "labelinds")) for text in _split(chosen)}
    words = [(word, number) for number, line in enumerate(read_lines(path), 1) for word in line.split()]
    entries = []
    for i in range(0, len(words) - 3, 4):
        (name, line), (joints, _), _, (kind, _) = words[i : i + 4]
        where = f"{path}:{line}: {name}"
        values = [
            _number(text, where)
            for number, text in enumerate(_split(joints), 1)
            if not wanted or number in wanted
        ]
        try:
            group = integer(kind)
        except ValueError as error:
            raise InputError(f"{where}: class {error}: write IMAGE JOINTS CROP CLASS") from None
        if not 0 <= group < len(words):
            raise InputError(f"{where}: class {group} must be numbered from 0 on")
        if len(values) % 2 or not values:
            raise InputError(f"{where}: {len(values)} numbers are not x and y of joints: write x,y,x,y,…")
        entries.append(Joints(name, line, tuple(values), group))
    if not entries:
        raise InputError(f"{path}: is empty: list at least one IMAGE JOINTS CROP CLASS")
    for entry in entries:
        if len(entry.places) != len(entries[0].places):
            raise InputError(
                f"{path}:{entry.line}: {entry.name}: {len(entry.places) // 2} joints, "
                f"{len(entries[0].places) // 2} in the first line"
            )
    return entries


def _split(text: str) -> list[str]:
    parts = text.split(",")
    return parts[:-1] if parts[-1] == "" else parts


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {text[:50]!r} is not a number") from None
    if not math.isfinite(value):
        raise InputError(f"{where}: {text[:50]!r} is not a number")
    return value
