"""Types that are planned and do not run: what they compute by is in files of a fork's own form.

A net with such a layer in the selected phase is read and planned; setting it up says why it stops.
"""

from prototxt.layers.declare import LAYER_TYPES, MANY, opened_type

_CONFIGURED = "its anchors and thresholds are in the fork's own configuration file"
_DATA = "it reads files in the fork's own form"

PLANNED_ONLY: dict[str, str] = {
    "AnnotatedRData": _DATA,
    "CPMData": _DATA,
    "FPNAnchorTarget": _CONFIGURED,
    "FPNProposal": _CONFIGURED,
    "FPNProposalTarget": _CONFIGURED,
    "FrcnnAnchorTarget": _CONFIGURED,
    "FrcnnProposal": _CONFIGURED,
    "FrcnnProposalTarget": _CONFIGURED,
    "FrcnnRoiData": _CONFIGURED,
    "FrcnnVidData": _CONFIGURED,
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

for _name in PLANNED_ONLY:
    if _name not in LAYER_TYPES:
        _made_up = _name.endswith("Data") or _name == "OPVideo"
        opened_type(_name, bottoms=(0, 0) if _made_up else (1, MANY), tops=(1, MANY))
