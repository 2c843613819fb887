"""The source behind each of Caffe's data layers, opened as Caffe's set-up opens it."""

from typing import Any

from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.declare import Declared
from prototxt.layers.planned import why_planned_only
from prototxt.plan import Step
from prototxt.unknown import refuse_unread
from runtime.data.annotated import AnnotatedImages, VideoFrames
from runtime.data.clips import VideoClips
from runtime.data.database import DatabaseImages
from runtime.data.detectnet import DetectNetTransform
from runtime.data.ground_truth import GroundTruthImages
from runtime.data.hdf5 import HDF5Rows
from runtime.data.heatmaps import JointImages
from runtime.data.images import DenseImages, LabelledImages, LabelmapImages, PairedImages
from runtime.data.mat import MatBlobs
from runtime.data.memory import MemoryImages
from runtime.data.prefetch import Share, Source, whole
from runtime.data.seg_windows import SegWindows
from runtime.data.segments import VideoSegments
from runtime.data.windows import ImageWindows
from runtime.rng import caffe_rng


def open_source(
    step: Step, share: Share = whole, palette_labels: bool = False
) -> tuple[Any, Declared] | None:
    """The source that a data layer reads from, and its tops' shapes; None for another kind of layer.

    Of a DetectNetTransformation it is what transforms its bottoms.

    Draws from Caffe's process-wide generator exactly what Caffe's set-up draws. From then on the source has
    generators of its own.

    Args:
        share: which part of a training set this process reads.
        palette_labels: take the indices of label images with a palette.

    Raises:
        InputError: files that are missing or cannot be used, settings that Caffe refuses.
    """
    if why := why_planned_only(step.param):
        raise InputError(
            f"{step.param.type} can be planned and not run: {why}. Give what it makes by an "
            "Input layer, or write it yourself (see register() in port.layers)"
        )
    if step.param.type == "DetectNetTransformation" and step.declared is not None:
        return DetectNetTransform(step.param, caffe_rng()), step.declared
    source = _source(step, share, palette_labels)
    return (source, Declared(source.shapes)) if source else None


def _source(step: Step, share: Share, palette_labels: bool) -> Source | None:
    layer = step.param
    if layer.type != "VideoData" or meaning(layer) != "TSN":
        refuse_unread(layer)
    match layer.type:
        case "AnnotatedData":
            return AnnotatedImages(layer, len(step.tops) > 1, share, caffe_rng())
        case "Data":
            return DatabaseImages(layer, len(step.tops) > 1, share, caffe_rng())
        case "DataHeatmap":
            return JointImages(layer, caffe_rng())
        case "HDF5Data":
            return HDF5Rows(layer, share)
        case "ImageData":  # every rank reads the whole list, as in Caffe
            return LabelledImages(layer, caffe_rng())
        case "ImageGtData":
            return GroundTruthImages(layer, caffe_rng(), len(step.tops))
        case "ImageSegData":
            return PairedImages(layer, caffe_rng(), palette_labels, len(step.tops))
        case "ImageLabelmapData":
            return LabelmapImages(layer, caffe_rng(), palette_labels)
        case "DenseImageData":
            return DenseImages(layer, caffe_rng(), palette_labels)
        case "MatRead":
            return MatBlobs(layer, len(step.tops))
        case "MemoryData":
            return MemoryImages(layer, caffe_rng(), len(step.tops))
        case "SelectSegBinary" | "WindowSegData":
            return SegWindows(layer, caffe_rng(), len(step.tops), palette_labels)
        case "VideoData":
            if meaning(layer) == "TSN":
                return VideoSegments(layer, caffe_rng(), len(step.tops))
            if meaning(layer) == "C3D":
                return VideoClips(layer, len(step.tops) > 1, caffe_rng())
            return VideoFrames(layer, len(step.tops) > 1, caffe_rng())
        case "WindowData":
            return ImageWindows(layer, caffe_rng())
    return None
