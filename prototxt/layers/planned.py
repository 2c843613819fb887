"""Types that are planned and do not run: they compute by files of a fork's own form, or on a GPU only.

A net with such a layer in the selected phase is read and planned; setting it up says why it stops.
"""

from prototxt.caffe_pb2 import TRAIN, LayerParameter
from prototxt.layers.augmentation import drawn
from prototxt.layers.declare import LAYER_TYPES, MANY, opened_type

_CONFIGURED = "its anchors and thresholds are in the fork's own configuration file"
_DATA = "it reads files in the fork's own form"
_ON_GPU = "its code was published for a GPU only"

PLANNED_ONLY: dict[str, str] = {
    "AnnotatedRData": _DATA,
    "AssistedExcitation": "its strength fades by the solver's iteration, which its code leaves unset elsewhere",
    "BlackAugmentation": _ON_GPU,
    "CPMData": _DATA,
    "CustomData": _DATA,
    "DisparityData": _DATA,
    "FloatReader": _DATA,
    "FPNAnchorTarget": _CONFIGURED,
    "FPNProposal": _CONFIGURED,
    "FPNProposalTarget": _CONFIGURED,
    "FrcnnAnchorTarget": _CONFIGURED,
    "FrcnnProposal": _CONFIGURED,
    "FrcnnProposalTarget": _CONFIGURED,
    "FrcnnRoiData": _CONFIGURED,
    "FrcnnVidData": _CONFIGURED,
    "ImgReader": _DATA,
    "LaneData": _DATA,
    "OPData": _DATA,
    "OPVideo": _DATA,
    "SegData": _DATA,
    "VideoSegmentationData": _DATA,
    "VideoWithVoxelTruthData": _DATA,
    "VolumeData": _DATA,
    "WeakSegData": _DATA,
}
"""A type → why it does not run."""

for _name, _why in PLANNED_ONLY.items():
    if _name not in LAYER_TYPES:
        opened_type(_name, bottoms=(0, 0) if _why == _DATA else (1, MANY), tops=(1, MANY))


def why_planned_only(layer: LayerParameter) -> str:
    """Why a layer that can be planned does not run; "" for one that does."""
    if layer.type in ("DataAugmentation", "GenerateAugmentationParameters") and (settings := drawn(layer)):
        return f"it would draw {', '.join(settings)}"
    if layer.type == "FLOWriter" and layer.phase == TRAIN and not layer.writer_param.file:
        return "when it trains it names its files by the solver's iteration"
    return PLANNED_ONLY.get(layer.type, "")
