"""Attention maps by the published procedure, without its repetitions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from port.attention.settings import LABEL_STATES
from port.devices import float32_convolutions
from port.models.seenet import SeeNet
from prototxt.errors import InputError
from runtime.resizing import resize_cubic

MEAN_BGR = (104.007, 116.669, 122.679)
"""Subtracted from BGR pixels in 0 … 255 ([R])."""

_AT_ONCE = 1 << 26
"""Values of an image that are resized together."""


def attention_maps(
    model: SeeNet,
    image: np.ndarray,
    labels: Sequence[int],
    test_size: int = 256,
    flip: bool = True,
    label_state: str = "accumulate",
) -> np.ndarray:
    """Attention of each label on one image, equal to the published notebook's.

    The notebook runs the whole net for each label and orientation. Here both orientations go through the
    trunk and S_A once, as one batch; only S_B, the branch that sees the labels, runs per label.

    The batch is contiguous (NCHW) on purpose: on CPUs, oneDNN's channels-last kernels sum a convolution's whole
    window in one chain, which puts SeeNet's scores three times as far from a float64 computation as Caffe's
    are, for a tenth of the time (`python -m parity_tests.bench.layout` prints both).

    Args:
        model: SeeNet in evaluation mode, on any device.
        image: (height, width, 3), BGR, 0 … 255, of any number type (what `cv2.imread` gives).
        labels: class indices. Their order matters to "accumulate".
        test_size: the image is resized to this square ([R] 256, [P] 224).
        flip: fuse with the mirrored image's maps by the maximum.
        label_state: what S_B is told when a label's map is made. "accumulate" is the published procedure,
            whose label blob is never cleared: this label and those before it. "single": this label alone.
            "all": all labels (S_B then runs once).

    Returns:
        (labels, height, width) float32, at most 1: per label the maximum over branches and orientations of the
        score map resized back, negatives cut, divided by its maximum + 1e-8.

    Raises:
        InputError: an image that is not (height, width, 3), a label out of range, an unknown label_state.
    """
    check_request(model, image, labels, label_state)
    if not labels:
        return np.zeros((0, *image.shape[:2]), np.float32)
    (scores,) = label_scores(model, [prepared_views(image, test_size, flip)], [labels], label_state)
    return fused_maps(scores, *image.shape[:2])


def check_request(model: SeeNet, image: np.ndarray, labels: Sequence[int], label_state: str) -> None:
    """Raises InputError for what `attention_maps` cannot take."""
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(f"the image is {image.shape}: it must be (height, width, 3), in BGR order")
    wrong = [label for label in labels if not 0 <= label < model.num_classes]
    if wrong:
        raise InputError(
            f"label {wrong[0]} is out of range: this net has classes 0 … {model.num_classes - 1}"
        )
    if label_state not in LABEL_STATES:
        raise InputError(f'label_state "{label_state}": must be one of {", ".join(LABEL_STATES)}')


def prepared_views(image: np.ndarray, test_size: int, flip: bool) -> np.ndarray:
    """(views, 3, test_size, test_size) float32: the image, and mirrored, as the notebook feeds the net."""
    views = [image, image[:, ::-1]] if flip else [image]
    resized = np.stack([_resized(view, test_size) for view in views])
    return np.ascontiguousarray((resized - np.array(MEAN_BGR)).transpose(0, 3, 1, 2), np.float32)


def _resized(image: np.ndarray, test_size: int) -> np.ndarray:
    """(test_size, test_size, 3) float64; a large photograph by channels, since it takes 24 bytes a pixel at once."""
    if image.size <= _AT_ONCE:
        return resize_cubic(image.astype(np.float64), test_size, test_size)
    channels = (np.ascontiguousarray(image[:, :, i], np.float64) for i in range(image.shape[2]))
    return np.stack([resize_cubic(channel, test_size, test_size) for channel in channels], axis=-1)


def label_scores(
    model: SeeNet,
    views: Sequence[np.ndarray],
    labels: Sequence[Sequence[int]],
    label_state: str,
    branches_together: bool | None = None,
) -> list[np.ndarray]:
    """The scores of several images' labels.

    The trunk, where nine tenths of the work are, runs once for all images, on CPUs the branches once for each.
    That is where a batch is exact: oneDNN sums a 3×3 convolution of two images or more in one way, but of a
    single image in another, as PyTorch does a 1×1 convolution of 16 or more. So without mirrored views, too, the
    trunk runs image by image. cuDNN promises less (an image's scores move by float32's rounding with the size
    of the batch), and many small kernels wait for Python there: on CUDA the branches run once for all images.

    Args:
        views: of each image, as `prepared_views` gives them, all of one test_size.
        labels: of each image, at least one.
        branches_together: whether the branches run once for all images. None: on CUDA.

    Returns:
        For each image (labels, branches, views, h, w) float32: the label's own channel of score_b1 and,
        if the model erases, of score_b2.
    """
    weight = model.score_b1.weight
    together = [np.concatenate(views)] if len(views[0]) > 1 else views
    with torch.inference_mode(), float32_convolutions():
        features = torch.cat(
            [
                model.trunk(torch.from_numpy(data).to(device=weight.device, dtype=weight.dtype))
                for data in together
            ]
        ).unflatten(0, (len(views), -1))
        if weight.is_cuda if branches_together is None else branches_together:
            scores = _own_scores(model, features, labels, label_state)
        else:
            alone = zip(features.split(1), labels, strict=True)
            scores = torch.cat([_own_scores(model, one, [own], label_state) for one, own in alone])
        ends = np.cumsum([len(own) for own in labels])[:-1]
        return np.split(scores.float().cpu().numpy(), ends)


def fused_maps(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """(labels, height, width) float32: the maximum over branches and orientations of `label_scores`' maps."""
    maps = np.zeros((len(scores), height, width), np.float32)
    for fused, by_branch in zip(maps, scores, strict=True):
        for by_view in by_branch:
            for score, unflip in zip(by_view, (1, -1), strict=False):
                np.maximum(fused, _scaled(score, height, width)[:, ::unflip], out=fused)
    return maps


def eight_bits(attention: np.ndarray) -> np.ndarray:
    """0 … 1 as 0 … 255, as attention files hold it."""
    return np.rint(attention * 255).astype(np.uint8)


def _own_scores(model: SeeNet, features: Tensor, labels: Sequence[Sequence[int]], label_state: str) -> Tensor:
    """Of several images' views (images, views, channels, h, w) in one batch: all `label_scores`, one image's after
    the other's."""
    images, views = features.shape[:2]
    counts = [len(own) for own in labels]
    image = [i for i, count in enumerate(counts) for _ in range(count)]
    label = [each for own in labels for each in own]
    score_b1 = model.branch_a(features.flatten(0, 1)).unflatten(0, (images, views))
    own_b1 = score_b1[image, :, label]
    if not model.erasing:
        return own_b1[:, None]
    told = [_label_states(list(own), model.num_classes, label_state) for own in labels]
    of_state = [i for i, states in enumerate(told) for _ in states]
    score_b2 = model.branch_b(
        features[of_state].flatten(0, 1),
        score_b1[of_state].flatten(0, 1),
        torch.cat(told).repeat_interleave(views, dim=0).to(score_b1),
    ).unflatten(0, (-1, views))
    state = (
        range(len(label)) if len(of_state) == len(label) else image
    )  # one for each label, or for each image
    own_b2 = score_b2[list(state), :, label]
    return torch.stack([own_b1, own_b2], dim=1)


def _label_states(labels: list[int], classes: int, label_state: str) -> Tensor:
    """(states, classes): what S_B is told, one state for each label, or one for all."""
    one_hot = torch.zeros(len(labels), classes)
    one_hot[range(len(labels)), labels] = 1
    if label_state == "accumulate":
        return one_hot.cumsum(0).clamp(max=1)
    return one_hot if label_state == "single" else one_hot.amax(0, keepdim=True)


def _scaled(score: np.ndarray, height: int, width: int) -> np.ndarray:
    attention = resize_cubic(score, width, height)
    attention[attention < 0] = 0
    return attention / (attention.max() + np.float32(1e-8))
