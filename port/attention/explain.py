"""What each branch of SeeNet sees of one image and label: the maps between the trunk and the published one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from port.attention.maps import prepared_views
from port.models.crelu import BackgroundMask, CReLU, normalised_attention
from port.models.seenet import SeeNet
from runtime.resizing import resize_cubic

NEGATED, POTENTIAL, ERASED = -1, 1, 0
"""C-ReLU's T: background is negated, the surest part of the object erased, the rest left."""


@dataclass(frozen=True)
class Shares:
    """Where a map's sum falls, negatives cut: on the label's own pixels, on background, on other classes."""

    own: float
    background: float
    others: float


@dataclass(frozen=True)
class Panel:
    """One map.

    Attributes:
        title, text: what it is, and what one sees, for people.
        values: (height, width) float32.
        low, high: the ends of its colour scale.
        kind: "map", with the photograph's size; "features", a position of conv5_3 each; "zones", T.
        shares: of a "map", where a mask is given.
    """

    title: str
    text: str
    values: np.ndarray
    low: float
    high: float
    kind: str
    shares: Shares | None = None


@dataclass(frozen=True)
class Answer:
    """What S_C says of the background: its surest classes with their probabilities, and by whose weights."""

    classes: list[tuple[int, float]]
    weights: str


@dataclass(frozen=True)
class Explanation:
    """All of one label.

    Attributes:
        panels: in the order in which they are computed.
        zones: the shares of positions that T erases, leaves and negates.
        answer: S_C's; None where the weights have no S_B either.
    """

    label: int
    panels: list[Panel]
    zones: dict[int, float] = field(default_factory=dict)
    answer: Answer | None = None


def explain(
    model: SeeNet,
    image: np.ndarray,
    label: int,
    mask: np.ndarray | None = None,
    test_size: int = 256,
    channels: int = 3,
) -> Explanation:
    """The maps of one label, without mirroring, with the model's thresholds.

    Args:
        model: in evaluation mode; its `maxt` and `mint` are δ_h and δ_l.
        image: (height, width, 3) uint8, BGR.
        mask: (height, width) uint8 label image, or none.
        channels: of conv5_3, those that C-ReLU changes most, are shown beside the mean.
    """
    height, width = image.shape[:2]

    def as_map(score: Tensor) -> np.ndarray:
        """Like the published maps: resized, negatives cut, over the maximum."""
        values = resize_cubic(np.ascontiguousarray(score[0, label].cpu().numpy()), width, height)
        values = np.maximum(values, 0)
        return values / (values.max() + np.float32(1e-8))

    def panel(title: str, text: str, values: np.ndarray) -> Panel:
        shares = None if mask is None else shares_of(values, mask, label)
        return Panel(title, text, values, 0, 1, "map", shares)

    with torch.inference_mode():
        weight = model.score_b1.weight
        data = torch.from_numpy(prepared_views(image, test_size, flip=False)).to(weight)
        told = torch.zeros(1, model.num_classes).to(weight)
        told[0, label] = 1
        features = model.trunk(data)
        score_a = model.branch_a(features)
        map_a = as_map(score_a)
        panels = [panel("S_A", "Plain attention: what tells the class most surely.", map_a)]
        if not model.erasing:
            return Explanation(label, panels)
        crelu = model.mask_b2
        attention = normalised_attention(score_a, told)[0, 0]
        zones = torch.where(
            attention > crelu.maxt, ERASED, torch.where(attention < crelu.mint, NEGATED, POTENTIAL)
        )
        masked = crelu(features, score_a, told)
        plain = CReLU(crelu.maxt, 0.0)(features, score_a, told)
        map_b = as_map(model.branch_b(features, score_a, told))
        without = as_map(model.scores_of("b2", plain))
        background = BackgroundMask((crelu.maxt + crelu.mint) / 2)(features, score_a, told)
        answer = _answer(model, background)
    share = {zone: float((zones == zone).float().mean()) for zone in (ERASED, POTENTIAL, NEGATED)}
    panels.append(
        Panel(
            "T, the three zones",
            f"Of the positions {share[ERASED]:.0%} are erased (attention above {crelu.maxt:g}), "
            f"{share[POTENTIAL]:.0%} left, {share[NEGATED]:.0%} negated (below {crelu.mint:g}).",
            zones.float().cpu().numpy(),
            -1,
            1,
            "zones",
        )
    )
    panels += _features(features[0], masked[0], channels)
    panels += [
        panel("S_B, as C-ReLU has it", "What tells the class once the surest part is erased.", map_b),
        panel("S_B without negation", "The same weights, the background left as it is.", without),
        _mean(
            "S_C's input",
            "Only what is hardly attended to; S_C is taught to find no class in it.",
            background[0],
        ),
        panel(
            "Fused",
            "The larger of S_A's and S_B's: the published map, without mirroring.",
            np.maximum(map_a, map_b),
        ),
    ]
    return Explanation(label, panels, share, answer)


def shares_of(values: np.ndarray, mask: np.ndarray, label: int) -> Shares:
    """Where a map's sum falls; pixels that the mask leaves open (255) do not count."""
    total = float(values[mask != 255].sum()) or 1.0
    own, background = mask == label + 1, mask == 0
    others = ~own & ~background & (mask != 255)
    return Shares(*(float(values[where].sum()) / total for where in (own, background, others)))


def _answer(model: SeeNet, background: Tensor) -> Answer:
    """S_C's pooled probabilities; where the weights lack S_C, by S_B's classifier, as S_C may have been."""
    own = model.background and not model.share_background
    branch = "b3" if own else "b2"
    scores = model.scores_of(branch, background)
    surest = torch.sigmoid(scores.mean((2, 3))[0]).topk(3)
    told = "its own weights" if own else "S_B's weights"
    if not model.background:
        told += ", since the file has no S_C"
    pairs = zip(surest.indices.tolist(), surest.values.tolist(), strict=True)
    return Answer([(index, value) for index, value in pairs], told)


def _features(before: Tensor, after: Tensor, channels: int) -> list[Panel]:
    """The mean, and the channels that change most, before and after; one scale for each pair."""
    changed = (before - after).abs().mean((1, 2))
    chosen = changed.topk(min(channels, len(changed))).indices.tolist()
    panels = []
    pairs: Sequence[tuple[str, Tensor, Tensor]] = [
        ("mean", before.mean(0), after.mean(0)),
        *((f"channel {i}", before[i], after[i]) for i in chosen),
    ]
    for name, one, other in pairs:
        low, high = float(min(one.min(), other.min())), float(max(one.max(), other.max()))
        for when, values in (("before", one), ("after", other)):
            told = "What the trunk sees." if when == "before" else "Erased: 0. Negated: below 0."
            panels.append(
                Panel(f"conv5_3, {name}, {when} C-ReLU", told, values.cpu().numpy(), low, high, "features")
            )
    return panels


def _mean(title: str, text: str, features: Tensor) -> Panel:
    values = features.mean(0).cpu().numpy()
    return Panel(title, text, values, 0.0, float(values.max()), "features")
