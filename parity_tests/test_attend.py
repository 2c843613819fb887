"""`port.attend` takes whatever holds an image, and tells what it cannot use."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import port


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype(np.uint8)


def test_every_kind_of_image_is_the_same(pixels: np.ndarray, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    rgb = np.ascontiguousarray(pixels[:, :, ::-1])
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    kinds = [tmp_path / "a.png", Image.fromarray(rgb), pixels, tensor, tensor.float() / 255]
    found = port.attend(kinds, ["person", 0], weights="shapes", test_size=64)
    assert len(found) == 5 and found[0].labels == (14, 0) and found[0].names == ["person", "aeroplane"]
    assert found[0].maps.shape == (2, 40, 50) and found[0].maps.max() > 0
    assert all(np.array_equal(each, found[0].maps) for each in map(np.asarray, found))
    assert np.array_equal(found[0]["person"], found[0].maps[0])
    assert found[0]._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("image", "labels", "told"),
    [
        (None, "dog", "cv2.imread gives that"),
        (np.zeros((4, 4), np.uint8), "dog", "height, width, 3"),
        (np.zeros((4, 4, 3)), "dog", "uint8"),
        (torch.zeros(1, 4, 4), "dog", "3, height, width"),
        (Image.new("L", (4, 4)), "dog", "to_bgr=True"),
        ("nowhere.png", "dog", "nowhere.png: cannot be read"),
        (np.zeros((4, 4, 3), np.uint8), "persn", "no such class"),
    ],
)
def test_what_cannot_be_used(image: object, labels: str, told: str) -> None:
    with pytest.raises(port.InputError, match=told):
        port.attend(image, labels, weights="shapes")
