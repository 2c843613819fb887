"""Fork layers that no recording has: both engines agree, and gradients are what differences of the forward give.

Where the published gradient is not the forward's own, the case says so; then the engines must still agree.
"""

import importlib
from dataclasses import dataclass

import numpy as np
import pytest

from parity_tests.recordings import ENGINES, ONE_LAYER, PHASES, error
from prototxt import parse_net
from prototxt.caffe_pb2 import NetParameter
from prototxt.errors import InputError
from prototxt.forks import meaning
from prototxt.layers.ctc import edit_distance
from prototxt.plan import plan_net
from runtime import Net
from runtime.c_random import CRandom, process_random


@dataclass(frozen=True)
class Case:
    """One layer on random bottoms.

    Attributes:
        layer: its type and settings.
        shapes: the bottoms'; (shape, "labels" | "markers" | "places", count) for one of whole numbers below count;
            "regions" are rows [image, x1, y1, x2, y2] of two images, the first row's maybe inverted; "pixels" are
            rows [image, y, x] of two images, in quarters.
        exact: the gradient is the forward's.
        tops: how many.
        passes: forward passes before the backward.
        step: of the differences; larger where positions are in single precision.
    """

    name: str
    layer: str
    shapes: tuple
    exact: bool = True
    tops: int = 1
    phase: str = "TRAIN"
    passes: int = 1
    backward: bool = True
    step: float = 1e-6


def _case(name: str, layer: str, *shapes: tuple, **facts: object) -> Case:
    return Case(name, layer, shapes, **facts)


MAP = (2, 3, 5, 6)
_DENSE = (
    'type: "DenseBlock" denseblock_param {{ {} Filter_Filler {{ type: "msra" }} '
    'BN_Scaler_Filler {{ type: "uniform" min: 0.5 max: 1.5 }} BN_Bias_Filler {{ type: "gaussian" std: 0.3 }} }}'
)
CASES = [
    _case(
        "unpooling_max",
        'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 unpool_size: 12 }',
        (2, 3, 6, 6),
    ),
    _case(
        "unpooling_places",
        'type: "Unpooling" unpooling_param { kernel_size: 2 stride: 2 unpool_h: 7 unpool_w: 9 }',
        (2, 2, 4, 5),
        ((2, 2, 4, 5), "places", 63),
        exact=False,  # places repeat
    ),
    _case(
        "unpooling_ave",
        'type: "Unpooling" unpooling_param { unpool: AVE kernel_size: 3 stride: 2 unpool_size: 9 }',
        (2, 2, 4, 4),
    ),
    _case(
        "unpooling_ave_cut",
        'type: "Unpooling" unpooling_param { unpool: AVE kernel_h: 3 kernel_w: 2 stride: 2 unpool_h: 8 unpool_w: 7 }',
        (1, 2, 4, 4),
    ),
    _case(
        "unpooling_tile",
        'type: "Unpooling" unpooling_param { unpool: TILE kernel_size: 3 stride: 2 unpool_size: 9 }',
        (2, 2, 4, 4),
        exact=False,  # the published gradient is a mean
    ),
    _case(
        "convolution3d",
        'type: "Convolution3D" convolution3d_param { num_output: 4 kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1 '
        'temporal_pad: 1 temporal_stride: 2 filter_group: 2 weight_filler { type: "xavier" } '
        'bias_filler { type: "gaussian" } }',
        (2, 3, 4, 5, 6),
    ),
    _case(
        "convolution3d_of_version_1_0",
        'type: "Convolution3D" convolution_param { num_output: 2 kernel_size: 2 kernel_depth: 3 bias_term: false '
        'weight_filler { type: "xavier" } }',
        (1, 3, 3, 4, 5),
    ),
    _case(
        "deconvolution3d",
        'type: "Deconvolution3D" convolution3d_param { num_output: 2 kernel_size: 4 kernel_depth: 3 stride: 2 pad: 1 '
        'temporal_stride: 1 temporal_pad: 1 bias_term: false weight_filler { type: "xavier" } '
        'bias_filler { type: "gaussian" } }',
        (2, 3, 3, 2, 3),
    ),
    _case(
        "pooling3d_max",
        'type: "Pooling3D" pooling3d_param { kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 }',
        (2, 3, 3, 5, 4),
    ),
    _case(
        "pooling3d_max_overlapping",
        'type: "Pooling3D" pooling_param { kernel_size: 3 kernel_depth: 1 stride: 2 }',
        (1, 2, 3, 6, 5),
    ),
    _case(
        "pooling3d_max_behind_the_map",
        'type: "Pooling3D" pooling_param { kernel_size: 1 kernel_depth: 1 stride: 3 }',
        (1, 2, 2, 3, 3),
        exact=False,  # what a window behind the map gives leaves no room for differences
    ),
    _case(
        "pooling3d_ave",
        'type: "Pooling3D" pooling3d_param { pool: AVE kernel_size: 3 kernel_depth: 2 stride: 2 pad: 1 '
        "temporal_stride: 2 }",
        (2, 2, 3, 5, 6),
    ),
    _case(
        "dense_block",
        _DENSE.format("numTransition: 3 growthRate: 2 moving_average_fraction: 0.9"),
        MAP,
        exact=False,
    ),
    _case(
        "dense_block_test", _DENSE.format("numTransition: 2 growthRate: 3"), MAP, exact=False, phase="TEST"
    ),
    _case(
        "dense_block_bc",
        _DENSE.format("numTransition: 2 growthRate: 2 use_BC: true initChannel: 3"),
        MAP,
        exact=False,  # the variance's derivative is the biased one's
        passes=2,
    ),
    _case(
        "dense_block_bc_test",
        _DENSE.format("numTransition: 2 growthRate: 2 use_BC: true"),
        MAP,
        backward=False,  # without a batch's statistics it overflows
        phase="TEST",
    ),
    _case(
        "focal_loss",
        'type: "FocalLoss" focal_loss_param { alpha: 0.5 gamma: 1.5 } loss_param { ignore_label: 2 }',
        (3, 4, 2, 3),
        ((3, 1, 2, 3), "labels", 4),
    ),
    _case(
        "focal_loss_defaults",
        'type: "FocalLoss" loss_weight: 1 loss_weight: 0 loss_param { normalize: false } softmax_param { axis: -1 }',
        (3, 2, 4),
        ((3, 2), "labels", 4),
        tops=2,
    ),
    _case(
        "adaptive_bias_channel",
        'type: "AdaptiveBiasChannel" adaptive_bias_channel_param { num_iter: 2 bg_portion: 0.4 fg_portion: 0.3 }',
        (3, 4, 5, 6),
        ((3, 3, 1, 1), "labels", 4),
        backward=False,  # there is none
    ),
    _case(
        "adaptive_bias_channel_with_others",
        'type: "AdaptiveBiasChannel" adaptive_bias_channel_param { suppress_others: false fg_portion: 0 }',
        (2, 3, 4, 4),
        ((2, 1), "labels", 3),
        backward=False,
    ),
    _case(
        "rand_bi",
        'type: "RandBI" rand_comp_param { compression_rate: 1 compression_rate: 3 pad: true }',
        (2, 3, 5, 6),
        (2, 2, 3, 3),
        ((7, 3), "markers", 2),
    ),
    _case(
        "rand_bi_unpadded",
        'type: "RandBI" rand_comp_param { compression_rate: 2 compression_rate: 4 }',
        (2, 3, 4, 4),
        (2, 2, 3, 3),
        ((6, 3), "places", 2),
    ),
    _case(
        "yolo_detection_output",
        'type: "YoloDetectionOutput" yolo_detection_output_param { num_classes: 3 num_box: 2 confidence_threshold: 0.2 '
        "biases: 1 biases: 1.5 biases: 3 biases: 2 }",
        (2, 16, 4, 4),
        (2, 16, 3, 3),
        backward=False,
    ),
    _case(
        "yolov3_detection_output",
        'type: "Yolov3DetectionOutput" yolov3_detection_output_param { num_classes: 2 num_box: 2 '
        "confidence_threshold: 0.3 biases: 10 biases: 15 biases: 30 biases: 20 biases: 60 biases: 40 biases: 9 "
        "biases: 9 mask: 2 mask: 3 mask: 0 mask: 1 anchors_scale: 16 anchors_scale: 32 }",
        (2, 14, 4, 5),
        (2, 14, 2, 3),
        backward=False,
    ),
    _case("cosin_add_m", 'type: "CosinAddm" cosin_add_m_param { m: 0.5 }', (5, 4), ((5,), "labels", 4)),
    _case(
        "adacos",
        'type: "AdaCosAddmScale" adacos_add_m_scale_param { m: 0.4 num_classes: 6 }',
        (5, 6),
        ((5,), "labels", 6),
        exact=False,  # the scale hangs on the cosines, and has no gradient
        passes=3,
    ),
    _case("eltwise_of_one", 'type: "Eltwise" eltwise_param { operation: SUM coeff: 0.625 }', MAP),
    _case("padding", 'type: "Padding" padding_param { pad_beg: 1 pad_end: 2 }', MAP),
    _case("padding_crop", 'type: "Padding" padding_param { pad_beg: -1 pad_end: -2 }', MAP),
    _case("transpose", 'type: "Transpose" transpose_param { dim: 3 dim: 0 dim: 2 dim: 1 }', MAP),
    _case("reverse", 'type: "Reverse" reverse_param { axis: 2 }', MAP),
    _case("flip", 'type: "Flip"', MAP),
    _case("flip_both", 'type: "Flip" flip_param { flip_height: true }', MAP),
    _case("selu", 'type: "SeLU"', MAP),
    _case("selu_dropout", 'type: "SeLUDropout" selu_dropout_param { dropout_ratio: 0.3 }', MAP),
    _case("selu_dropout_test", 'type: "SeLUDropout"', MAP, phase="TEST"),
    _case("dropout_unscaled", 'type: "Dropout" dropout_param { scale_train: false }', MAP),
    _case("dropout_unscaled_test", 'type: "Dropout" dropout_param { scale_train: false }', MAP, phase="TEST"),
    _case("norm_l2", 'type: "NormL2"', (3, 8)),
    _case("channel_scale", 'type: "ChannelScale"', MAP, (2, 1, 5, 6)),
    _case(
        "channel_scale_parts",
        'type: "ChannelScale" channel_scale_param { do_forward: false do_backward_scale: false }',
        MAP,
        (2, 1, 5, 6),
        exact=False,
    ),
    _case(
        "inner_distance",
        'type: "InnerDistance" inner_distance_param { num_output: 4 weight_filler { type: "xavier" } }',
        (3, 2, 4),
    ),
    _case(
        "inner_distance_l1",
        'type: "InnerDistance" inner_distance_param { num_output: 4 distance_type: "L1" normalize: true '
        'weight_filler { type: "xavier" } }',
        (3, 8),
        exact=False,  # each pass normalises the weight
    ),
    _case("gather", 'type: "Gather"', MAP, (2, 3), tops=2),
    _case("inner_distance_bottoms", 'type: "InnerDistance"', (3, 8), (4, 8)),
    _case(
        "label_specific_add",
        'type: "LabelSpecificAdd" label_specific_add_param { bias: -0.35 }',
        (4, 5),
        ((4,), "labels", 5),
    ),
    _case(
        "label_specific_add_annealed",
        'type: "LabelSpecificAdd" label_specific_add_param { bias_base: 0.1 bias_gamma: 0.5 bias_max: 2 }',
        (4, 5),
        ((4,), "labels", 5),
        tops=2,
        passes=3,
        backward=False,
    ),
    _case(
        "label_specific_add_test",
        'type: "LabelSpecificAdd" label_specific_add_param { bias: -0.35 }',
        (4, 5),
        ((4,), "labels", 5),
        phase="TEST",
    ),
    _case("l1_loss_one_bottom", 'type: "L1Loss"', MAP),
    _case(
        "l1_loss_flow",
        'type: "L1Loss" l1_loss_param { l2_per_location: true normalize_by_num_entries: true }',
        MAP,
        MAP,
    ),
    _case(
        "l1_loss_plateau",
        'type: "L1Loss" l1_loss_param { l2_per_location: true l2_prescale_by_channels: true plateau: 0.7 }',
        MAP,
        MAP,
    ),
    *(
        _case(f"lpq_loss_{name}", f'type: "LpqLoss" lpq_loss_param {{ {settings} }}', MAP, MAP)
        for name, settings in (
            ("fine_tuned", "p: 2 q: 0.4"),
            ("robust", "p: 1 q: 0.2 q_epsilon: 0.05 pq_episode_starts_at_iter: 0"),
            (
                "mean",
                "p: 1.5 q: 0.7 p_epsilon: 0.3 l2_prescale_by_channels: true normalize_by_num_entries: true",
            ),
            ("linear", "p: 1 q: 1"),
        )
    ),
    *(
        _case(
            f"correlation1d_{name}",
            f'type: "Correlation1D" correlation_param {{ {settings} }}',
            *[(2, 3, 6, 9)] * 2,
        )
        for name, settings in (
            ("both", "kernel_size: 1 max_displacement: 3 pad: 2 do_abs: true"),
            ("left", "kernel_size: 3 max_displacement: 2 pad: 4 stride_2: 2 single_direction: -1"),
            ("right", "kernel_size: 3 max_displacement: 3 pad: 3 stride_1: 2 single_direction: 1"),
        )
    ),
    _case(
        "correlation_of_one_direction",  # Correlation1D's setting, which this one does not read
        'type: "Correlation" correlation_param { kernel_size: 1 max_displacement: 2 pad: 2 single_direction: -1 }',
        *[(2, 2, 4, 5)] * 2,
    ),
    *(
        _case(
            f"accum_{name}",
            f'type: "Accum" accum_param {{ {settings} }}',
            (2, 2, 3, 4),
            (2, 1, 5, 4),
            (2, 3, 1, 6),
        )
        for name, settings in (
            ("largest", ""),
            ("divisible", "size_divisible_by: 4"),
            ("given", "top_height: 7 top_width: 9"),
            ("too_small", "top_height: 9 top_width: 5"),
        )
    ),
    _case(
        "accum_reference",
        'type: "Accum" accum_param { have_reference: true } propagate_down: true propagate_down: false',
        (2, 2, 5, 4),
        (2, 7, 3, 6),
    ),
    _case("l1_loss_plateau_each", 'type: "L1Loss" l1_loss_param { plateau: 0.4 }', MAP, MAP),
    _case("warp", 'type: "Warp"', MAP, (2, 2, 5, 6), step=1e-3),
    _case("warp_whole", 'type: "Warp"', MAP, ((2, 2, 5, 6), "labels", 3), exact=False),
    _case(
        "correlation",
        'type: "Correlation" correlation_param { pad: 3 kernel_size: 1 max_displacement: 3 stride_1: 1 stride_2: 1 }',
        MAP,
        MAP,
    ),
    _case(
        "correlation_strides",
        'type: "Correlation" correlation_param { pad: 4 kernel_size: 3 max_displacement: 4 stride_1: 2 stride_2: 2 }',
        (2, 3, 8, 7),
        (2, 3, 8, 7),
    ),
    *(
        _case(
            f"resample_{kind.lower()}_{name}",
            f'type: "Resample" resample_param {{ type: {kind} {size} }}',
            (2, 2, 7, 9),
            backward=False,
        )
        for kind in ("NEAREST", "LINEAR", "CUBIC")
        for name, size in (
            ("larger", "height: 14 width: 18"),
            ("smaller", "height: 3 width: 4"),
            ("sharp", "height: 3 width: 4 antialias: false"),
        )
    ),
    _case(
        "downsample",
        'type: "Downsample" downsample_param { top_height: 3 top_width: 4 }',
        (2, 2, 7, 9),
        backward=False,
    ),
    *(
        _case(
            f"{name.lower()}_{kind.lower()}",
            f'type: "{name}" {param} {{ num_output: 4 type: {kind} base: 2 weight_filler {{ type: "xavier" }} }}',
            (6, 5),
            ((6,), "labels", 4),
            exact=name[0] == "L",
        )
        for name, param in (
            ("LargeMarginInnerProduct", "largemargin_inner_product_param"),
            ("MarginInnerProduct", "margin_inner_product_param"),
        )
        for kind in ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")
    ),
    _case(
        "large_margin_annealed",
        'type: "LargeMarginInnerProduct" largemargin_inner_product_param { num_output: 4 type: DOUBLE base: 9 '
        'gamma: 0.5 lambda_min: 2 weight_filler { type: "xavier" } }',
        (6, 5),
        ((6,), "labels", 4),
        tops=2,
        passes=3,
        backward=False,
    ),
    *(
        _case(
            f"batch_norm_scale_bias_{phase.lower()}",
            'type: "BatchNorm" batch_norm_param { scale_bias: true moving_average_fraction: 0.9 '
            'scale_filler { type: "uniform" min: 0.5 max: 1.5 } bias_filler { type: "constant" value: 0.3 } }',
            MAP,
            phase=phase,
            passes=3 if phase == "TRAIN" else 1,
            exact=phase == "TRAIN",  # statistics that are kept have no gradient
        )
        for phase in ("TRAIN", "TEST")
    ),
    _case(
        "batch_norm_stats_batches",
        'type: "BatchNorm" batch_norm_param { stats_batch_size: 2 moving_average_fraction: 0.9 }',
        (6, 3, 4, 5),
        passes=2,
    ),
    _case("relu_mask", 'type: "ReLU" relu_param { negative_slope: 0.25 }', MAP, tops=2),
    _case("eltwise_accuracy", 'type: "EltwiseAccuracy"', MAP, ((2, 1, 5, 6), "labels", 3), backward=False),
    _case(
        "eltwise_accuracy_of_two",
        'type: "EltwiseAccuracy" eltwise_accuracy_param { top_k: 2 ignore_label: 0 }',
        MAP,
        ((2, 1, 5, 6), "labels", 4),
        backward=False,
    ),
    *(
        _case(
            f"softmax_loss_weights_{name}",
            f'type: "SoftmaxWithLoss" loss_param {{ {more} }} propagate_down: true propagate_down: false '
            "propagate_down: false",
            MAP,
            ((2, 1, 5, 6), "labels", 3),
            ((2, 1, 5, 6), "labels", 4),
        )
        for name, more in (("sum", "ignore_label: 1"), ("batch", "normalize: false"))
    ),
    _case(
        "smooth_l1_one_weight",
        'type: "SmoothL1Loss" loss_weight: 1 propagate_down: true propagate_down: true propagate_down: false',
        MAP,
        MAP,
        (MAP, "labels", 3),
        exact=False,
    ),
    *(
        _case(
            f"normalize_{kind.lower()}_{name}",
            f'type: "Normalize" normalize_param {{ normalize_type: "{kind}" {more} }}',
            MAP,
            tops=tops,
        )
        for kind in ("L1", "L2")
        for name, more, tops in (("alone", "", 1), ("norm", "bp_norm: true", 2))
    ),
    _case(
        "inner_product_normalize",
        'type: "InnerProduct" inner_product_param { num_output: 4 normalize: true weight_filler { type: "xavier" } }',
        (3, 2, 4),
        exact=False,  # each pass normalises the weight
    ),
    _case(
        "sigmoid_loss_weights",
        'type: "SigmoidCrossEntropyLoss" propagate_down: true propagate_down: false propagate_down: false',
        MAP,
        (MAP, "labels", 2),
        (MAP, "labels", 3),
    ),
    *(
        _case(
            name,
            f'type: "{name}" {more}',
            (6, 5),
            ((6,), "labels", 5),
            exact=name == "CosinAddm",
            passes=passes,
        )
        for name, more, passes in (
            ("CosinAddm", "", 1),
            ("AdaCosAddmScale", "adacos_add_m_scale_param { num_classes: 5 m: 0.3 }", 3),
        )
    ),
    _case("voxel_softmax", 'type: "VoxelSoftmax"', (2, 3, 2, 3, 4)),
    _case(
        "voxel_softmax_loss",
        'type: "VoxelSoftmaxWithLoss"',
        (2, 3, 2, 3, 4),
        ((2, 1, 2, 3, 4), "labels", 3),
    ),
    _case(
        "voxel_softmax_loss_unknown",
        'type: "VoxelSoftmaxWithLoss"',
        (2, 3, 2, 3, 4),
        ((2, 1, 2, 3, 4), "labels", 5),
        exact=False,  # an unknown label costs nothing, but has a gradient
    ),
    _case("ctc", 'type: "WarpCTCLoss"', (7, 4, 5), ((4, 3), "labels", 5), exact=False),  # the sum's gradient
    _case(
        "ctc_blank",
        'type: "WarpCTCLoss" ctc_loss_param { blank_index: 4 }',
        (9, 3, 5),
        ((3, 4), "labels", 5),
        exact=False,
    ),
    _case("ctc_too_short", 'type: "WarpCTCLoss"', (2, 5, 3), ((5, 2), "labels", 3), exact=False),
    _case("ctc_decoder", 'type: "CTCGreedyDecoder"', (9, 3, 3), backward=False),
    _case(
        "ctc_decoder_all",
        'type: "CTCGreedyDecoder" ctc_decoder_param { blank_index: 2 ctc_merge_repeated: false }',
        (9, 3, 3),
        backward=False,
    ),
    _case("ctc_accuracy", 'type: "CTCGreedyDecoder"', (4, 6, 3), ((6, 2), "labels", 3), backward=False),
    _case(
        "roi_pooling_padded",
        'type: "ROIPooling" roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 pad_ratio: 0.25 }',
        (2, 3, 8, 9),
        ((5, 5), "regions", 14),
    ),
    *(
        _case(
            f"roi_align_corners_{name}",
            f'type: "ROIAlign" roi_pooling_param {{ pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 {more} }}',
            (2, 3, 8, 9),
            ((6, 5), "regions", 14),
        )
        for name, more in (("plain", ""), ("padded", "pad_ratio: 0.25"))
    ),
    *(
        _case(
            f"rand_bi_{pad}",
            f'type: "RandBI" rand_comp_param {{ compression_rate: 1 compression_rate: 2 pad: {pad} }}',
            (2, 3, 8, 9),
            (2, 2, 5, 6),
            ((12, 3), "pixels", 28),
        )
        for pad in ("true", "false")
    ),
    _case(
        "lstm",
        'type: "Lstm" lstm_param { num_output: 4 weight_filler { type: "xavier" } '
        'bias_filler { type: "constant" value: 0.2 } }',
        (4, 3, 5),
    ),
    _case(
        "lstm_rows",
        'type: "Lstm" lstm_param { num_output: 4 batch_size: 3 weight_filler { type: "xavier" } '
        'bias_filler { type: "constant" value: 0.2 } }',
        (12, 5),
    ),
    _case(
        "lstm_rows_markers",
        'type: "Lstm" lstm_param { num_output: 4 batch_size: 2 weight_filler { type: "xavier" } }',
        (8, 5),
        ((8, 1), "markers", 2),
        exact=False,
        passes=2,
    ),
    _case(
        "lstm_clipped",
        'type: "Lstm" lstm_param { num_output: 4 clipping_threshold: 0.05 weight_filler { type: "xavier" } }',
        (4, 3, 5),
        exact=False,
    ),
    _case(
        "lstm_markers",
        'type: "Lstm" lstm_param { num_output: 4 weight_filler { type: "xavier" } }',
        (4, 3, 5),
        ((12,), "markers", 2),
        exact=False,
        passes=2,
    ),
]


def _net(engine: str, case: Case, **settings: object) -> Net:
    process_random.restore(CRandom().state())
    caffe = importlib.import_module(f"{engine}.pycaffe")
    caffe.set_random_seed(7)
    return caffe.Net.from_message(net_of(case), PHASES[case.phase], **settings)


def net_of(case: Case) -> NetParameter:
    """Input layers b0, b1, …, and the layer on them."""
    bottoms = [shape if isinstance(shape[0], int) else shape[0] for shape in case.shapes]
    lines = [
        f'layer {{ name: "b{i}" type: "Input" top: "b{i}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }"
        for i, shape in enumerate(bottoms)
    ]
    wired = "".join(f' bottom: "b{i}"' for i in range(len(bottoms))) + "".join(
        f' top: "y{i}"' for i in range(case.tops)
    )
    lines.append(f'layer {{ name: "l" {case.layer}{wired} }}')
    force = "force_backward: true\n" if case.backward else ""
    return parse_net(force + "\n".join(lines))


def inputs_of(case: Case) -> list[np.ndarray]:
    draw = np.random.RandomState(sum(map(ord, case.name)))
    inputs = []
    for shape in case.shapes:
        if isinstance(shape[0], int):
            inputs.append(draw.uniform(-1, 1, shape).astype(np.float32))
        else:
            inputs.append(draw.randint(0, shape[2], shape[0]).astype(np.float32))
            if shape[1] == "pixels":
                inputs[-1][:, 1:] /= 4
                inputs[-1][:, 0] = draw.randint(0, 2, len(inputs[-1]))
            if shape[1] == "regions":
                inputs[-1][:, 0] = draw.randint(0, 2, len(inputs[-1]))
                inputs[-1][1:, 1:] = np.sort(inputs[-1][1:, 1:].reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    return inputs


def _run(net: Net, case: Case, inputs: list[np.ndarray]) -> list[np.ndarray]:
    for i, values in enumerate(inputs):
        net.blobs[f"b{i}"].data[...] = values
    importlib.import_module("reference.pycaffe").set_random_seed(5)
    for _ in range(case.passes):
        net.forward()
    return [net.blobs[f"y{i}"].data.copy() for i in range(case.tops)]


def _gradients(net: Net, case: Case) -> dict[str, np.ndarray]:
    draw = np.random.RandomState(3)
    top = net.blobs["y0"]
    top.diff[...] = draw.uniform(0.5, 1.5, top.shape)
    net.clear_param_diffs()
    net.backward()
    found = {
        f"b{i}": net.blobs[f"b{i}"].diff.copy() for i, s in enumerate(case.shapes) if isinstance(s[0], int)
    }
    return found | {f"l[{i}]": blob.diff.copy() for i, blob in enumerate(net.params.get("l", []))}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_engines_agree(case: Case) -> None:
    results, gradients = [], []
    for engine in ENGINES:
        net = _net(engine, case)
        results.append(_run(net, case, inputs_of(case)))
        gradients.append(_gradients(net, case) if case.backward else {})
    for one, other in zip(*results, strict=True):
        assert np.abs(one).max() > 0
        assert error(other, one) <= ONE_LAYER
    for name, one in gradients[0].items():
        assert error(gradients[1][name], one) <= ONE_LAYER, name
    assert not case.backward or any(one.any() for one in gradients[0].values())


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.exact and case.backward], ids=lambda case: case.name
)
def test_gradient_is_that_of_the_forward(case: Case) -> None:
    """In double precision, against central differences at some places of each blob."""
    net = _net("reference", case, dtype=np.float64)
    inputs = [values.astype(np.float64) for values in inputs_of(case)]
    (before, *_) = _run(net, case, inputs)
    gradients = _gradients(net, case)
    weights = np.random.RandomState(3).uniform(0.5, 1.5, before.shape)
    step, draw = case.step, np.random.RandomState(11)
    tolerance = 1e-5 if step < 1e-5 else 1e-3
    for name, gradient in gradients.items():
        values = inputs[int(name[1:])] if name[0] == "b" else net.params["l"][int(name[2:-1])].data
        for place in draw.choice(gradient.size, min(gradient.size, 12), replace=False):
            index, sides = np.unravel_index(place, gradient.shape), []
            kept = values[index]
            for side in (kept + step, kept - step):
                values[index] = side
                sides.append((_run(net, case, inputs)[0] * weights).sum())
            values[index] = kept
            assert abs((sides[0] - sides[1]) / (2 * step) - gradient[index]) < tolerance, (name, index)


def test_autocrop_aligns_the_maps_as_hed_does() -> None:
    """FCN's alignment: a first convolution padded by 35, and a deconvolution back to the image's scale."""
    text = """
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 20 dim: 24 } } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c"
            convolution_param { num_output: 1 kernel_size: 3 pad: 35 } }
        layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
        layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
        layer { name: "u" type: "Deconvolution" bottom: "p" top: "u"
            convolution_param { num_output: 1 kernel_size: 4 stride: 2 } }
        layer { name: "a" type: "AutoCrop" bottom: "u" bottom: "x" top: "y" }
    """
    for engine in ENGINES:
        net = importlib.import_module(f"{engine}.pycaffe").Net.from_message(parse_net(text), PHASES["TEST"])
        net.blobs["x"].data[...] = np.random.RandomState(1).uniform(size=(1, 1, 20, 24))
        net.params["u"][0].data[...] = 1
        net.params["c"][0].data[...] = 1
        net.forward()
        np.testing.assert_array_equal(net.blobs["y"].data, net.blobs["u"].data[:, :, 35:55, 35:59])
        assert net.blobs["y"].data.any()


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ('type: "AutoCrop" bottom: "p" bottom: "x"', "differ in scale"),
        ('type: "AutoCrop" bottom: "c" bottom: "z"', "come from no common blob"),
        ('type: "AutoCrop" bottom: "x" bottom: "c"', "offsets of -34"),
        ('type: "AutoCrop" bottom: "x"', "takes 2 bottom blobs"),
    ],
)
def test_autocrop_refuses(last: str, message: str) -> None:
    text = f"""
        layer {{ name: "in" type: "Input" top: "x" top: "z"
            input_param {{ shape {{ dim: 1 dim: 1 dim: 20 dim: 24 }} }} }}
        layer {{ name: "c" type: "Convolution" bottom: "x" top: "c"
            convolution_param {{ num_output: 1 kernel_size: 3 pad: 35 }} }}
        layer {{ name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param {{ kernel_size: 2 stride: 2 }} }}
        layer {{ name: "a" {last} top: "y" }}
    """
    with pytest.raises(InputError, match=message):
        plan_net(parse_net(text))


def test_ctc_gradient_is_that_of_the_sum() -> None:
    """Four streams: the mean's differences, four times, are the gradient."""
    case = next(case for case in CASES if case.name == "ctc")
    net = _net("reference", case, dtype=np.float64)
    inputs = [values.astype(np.float64) for values in inputs_of(case)]
    _run(net, case, inputs)
    gradient = _gradients(net, case)["b0"]
    for index in [(0, 0, 1), (3, 2, 0), (6, 3, 4)]:
        sides = []
        for step in (1e-6, -1e-6):
            moved = [values.copy() for values in inputs]
            moved[0][index] += step
            sides.append(float(_run(net, case, moved)[0]))
        assert abs(4 * (sides[0] - sides[1]) / 2e-6 - gradient[index]) < 1e-6


def test_statistics_of_parts_of_a_batch_are_those_of_batches() -> None:
    """Six images at two a time, set for the whole net, leave what three passes with two images leave."""
    text = """%s layer { name: "b0" type: "Input" top: "b0" input_param { shape { dim: %d dim: 3 dim: 4 dim: 5 } } }
        layer { name: "l" type: "BatchNorm" bottom: "b0" top: "y0" }"""
    x = np.random.RandomState(2).standard_normal((6, 3, 4, 5)).astype(np.float32)
    for engine in ENGINES:
        caffe = importlib.import_module(f"{engine}.pycaffe")
        whole = caffe.Net.from_message(parse_net(text % ("bn_stats_batch_size: 2", 6)), PHASES["TRAIN"])
        whole.blobs["b0"].data[...] = x
        whole.forward()
        parts = caffe.Net.from_message(parse_net(text % ("", 2)), PHASES["TRAIN"])
        for i in (0, 2, 4):
            parts.blobs["b0"].data[...] = x[i : i + 2]
            parts.forward()
            np.testing.assert_allclose(
                whole.blobs["y0"].data[i : i + 2], parts.blobs["y0"].data, rtol=1e-6, atol=1e-6
            )
        for one, other in zip(whole.params["l"], parts.params["l"], strict=True):
            np.testing.assert_allclose(one.data, other.data, rtol=1e-6, atol=1e-7)
        with pytest.raises(InputError, match="stats_batch_size 4 must divide the batch of 6"):
            caffe.Net.from_message(parse_net(text % ("bn_stats_batch_size: 4", 6)), PHASES["TRAIN"])
        caffe.Net.from_message(parse_net(text % ("bn_stats_batch_size: 4", 6)), PHASES["TEST"])


@pytest.mark.parametrize("slope", [0, 0.5, -0.5])
def test_a_relus_mask_in_place(slope: float) -> None:
    """It is of what the bottom has become: with a slope below 0 all of it is above."""
    text = f"""layer {{ name: "b0" type: "Input" top: "b0" input_param {{ shape {{ dim: 3 }} }} }}
        layer {{ name: "l" type: "ReLU" bottom: "b0" top: "b0" top: "m" relu_param {{ negative_slope: {slope} }} }}"""
    for engine in ENGINES:
        net = importlib.import_module(f"{engine}.pycaffe").Net.from_message(parse_net(text), PHASES["TEST"])
        net.blobs["b0"].data[...] = -2, 0, 3
        net.forward()
        assert net.blobs["b0"].data.tolist() == [-2 * slope, 0, 3]
        assert net.blobs["m"].data.tolist() == [float(slope < 0), 0, 1]


def test_eltwise_accuracy_by_hand() -> None:
    scores = np.array([[1, 2, 2, 0, 5], [1, 0, 2, 4, 5], [0, 3, 1, 9, 5]], np.float32).reshape(1, 3, 1, 5)
    for settings, labels, expected in (
        ("", [1, 2, 1, 2, 2], 1),  # of equal ones the last
        ("", [0, 2, 0, 2, 1], 2 / 5),
        ("top_k: 2", [0, 2, 0, 0, 1], 4 / 5),
        ("ignore_label: 255", [1, 255, 0, 7, 255], 1 / 3),
        ("ignore_label: 0", [0, 0, 0, 0, 0], np.nan),
    ):
        layer = f'type: "EltwiseAccuracy" eltwise_accuracy_param {{ {settings} }}'
        case = Case("by_hand", layer, (scores.shape, (1, 1, 1, 5)), backward=False)
        for engine in ENGINES:
            (share,) = _run(
                _net(engine, case), case, [scores, np.array(labels, np.float32).reshape(1, 1, 1, 5)]
            )
            np.testing.assert_allclose(share.ravel(), expected, rtol=1e-6)


def test_losses_with_weights_by_hand() -> None:
    scores = np.log(np.float32([[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]))
    x = np.float32([[[[2, 0.5]], [[0, 3]]]])
    for engine in ENGINES:
        for labels, weights, settings, expected in (
            ([0, 1, 1], [2, 1, 0], "", (2 * np.log(4) + np.log(2)) / 3),
            ([0, 1, 1], [2, 1, 0], "ignore_label: 0", np.log(2)),
            ([0, 1, 1], [0, 0, 0], "", 0),
            ([0, 1, 1], [2, 1, 0], "normalize: false", (2 * np.log(4) + np.log(2)) / 3),
            ([0, 1, 1], [2, 2, 2], "normalize: false", 2 * (np.log(4) + np.log(2) - np.log(0.9)) / 3),
        ):
            layer = f'type: "SoftmaxWithLoss" loss_param {{ {settings} }}'
            case = Case("by_hand", layer, ((3, 2), (3, 1), (3, 1)), backward=False)
            inputs = [scores, *(np.float32(values).reshape(3, 1) for values in (labels, weights))]
            (loss,) = _run(_net(engine, case), case, inputs)
            np.testing.assert_allclose(loss, expected, rtol=1e-6, atol=1e-7)
        # One item of two places: half the sum of f(w · x), and the gradient f'(w · x) without the w.
        case = Case("by_hand", 'type: "SmoothL1Loss"', (x.shape,) * 3)
        net = _net(engine, case)
        (loss,) = _run(net, case, [x, np.zeros_like(x), np.float32([1, 0.5, 1, 0.1]).reshape(x.shape)])
        np.testing.assert_allclose(loss, (1.5 + 0.25**2 / 2 + 0 + 0.3**2 / 2) / 2, rtol=1e-6)
        net.blobs["y0"].diff[...] = 2
        net.backward()
        np.testing.assert_allclose(net.blobs["b0"].diff.ravel(), [1, 0.25, 0, 0.3], rtol=1e-6)
        np.testing.assert_allclose(net.blobs["b1"].diff.ravel(), [-1, -0.25, 0, -0.3], rtol=1e-6)


def test_an_lstms_rows_are_steps_of_streams() -> None:
    """And of n streams at step t caffe-lstm reads marker t + n."""
    weights = np.random.RandomState(1).uniform(-1, 1, (7, 2, 3)).astype(np.float32)
    markers = np.float32([0, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1])
    filler = 'weight_filler { type: "xavier" }'
    for engine in ENGINES:
        tops = []
        for layer, shapes, inputs in (
            ("batch_size: 2", ((14, 3), (14,)), [weights.reshape(14, 3), markers]),
            ("", ((7, 2, 3), (14,)), [weights, np.stack([markers[:7], markers[1:8]], 1).ravel()]),
        ):
            case = Case(
                "rows",
                f'type: "Lstm" lstm_param {{ num_output: 4 {layer} {filler} }}',
                shapes,
                backward=False,
            )
            tops.append(_run(_net(engine, case), case, inputs)[0])
        np.testing.assert_array_equal(tops[0].reshape(7, 2, 4), tops[1])


def test_normalize_and_its_norm_by_hand() -> None:
    """The norm's gradient comes to the norm's slope: with bp_norm alone."""
    x = np.float32([3, -4]).reshape(1, 2, 1, 1)
    for kind, norm, slopes in (("L2", 5, (0.6, -0.8)), ("L1", 7, (1, -1))):
        for counts in (False, True):
            layer = f'type: "Normalize" normalize_param {{ normalize_type: "{kind}" bp_norm: {str(counts).lower()} }}'
            case = Case("by_hand", layer, (x.shape,), tops=2)
            for engine in ENGINES:
                net = _net(engine, case)
                top, told = _run(net, case, [x])
                np.testing.assert_allclose(top.ravel(), x.ravel() / norm, rtol=1e-6)
                np.testing.assert_allclose(told, norm, rtol=1e-6)
                net.blobs["y0"].diff[...] = 0
                net.blobs["y1"].diff[...] = 2
                net.backward()
                np.testing.assert_allclose(
                    net.blobs["b0"].diff.ravel(), [2 * counts * slope for slope in slopes], rtol=1e-6
                )


def test_an_inner_product_keeps_its_unit_weights() -> None:
    case = Case(
        "unit", 'type: "InnerProduct" inner_product_param { num_output: 1 normalize: true }', ((1, 2),)
    )
    for engine in ENGINES:
        net = _net(engine, case)
        net.params["l"][0].data[...] = 3, 4
        (top,) = _run(net, case, [np.float32([[1, 2]])])
        np.testing.assert_allclose(top, [[0.6 + 1.6]], rtol=1e-6)
        np.testing.assert_allclose(net.params["l"][0].data, [[0.6, 0.8]], rtol=1e-6)


def test_sigmoid_losses_without_weight_keep_the_last_loss() -> None:
    """As published: the top is not written, and the gradient has neither the sum nor the loss weight in it."""
    layer = 'type: "SigmoidCrossEntropyLoss" loss_weight: 5 propagate_down: true propagate_down: false'
    case = Case("by_hand", layer + " propagate_down: false", ((1, 2),) * 3)
    x, targets = np.float32([[0, 2]]), np.float32([[1, 0]])
    losses = [np.log(2), np.log1p(np.exp(2))]
    for engine in ENGINES:
        net = _net(engine, case)
        (loss,) = _run(net, case, [x, targets, np.float32([[1, 3]])])
        np.testing.assert_allclose(loss, (losses[0] + 3 * losses[1]) / 4, rtol=1e-6)
        (again,) = _run(net, case, [x * 2, targets, np.float32([[2, -2]])])
        np.testing.assert_array_equal(again, loss)
        net.backward()
        np.testing.assert_allclose(net.blobs["b0"].diff, [[-1, -2 / (1 + np.exp(-4))]], rtol=1e-6)


def test_margins_by_hand() -> None:
    """The label's cosine becomes that of an angle that is larger by m; beyond π - m it is less m · sin m."""
    angles, m = np.array([0.3, 1.2, 3.0]), 0.5
    x = np.float32(np.stack([np.cos(angles), np.full(3, 0.2)], axis=1))
    moved = np.array([np.cos(0.8), np.cos(1.7), np.cos(3.0) - 0.5 * np.sin(0.5)])
    slopes = np.array([np.sin(0.8) / np.sin(0.3), np.sin(1.7) / np.sin(1.2), 1])
    scale = np.sqrt(2) * np.log(9)
    for engine in ENGINES:
        case = Case("by_hand", 'type: "CosinAddm"', ((3, 2), (3,)))
        net = _net(engine, case)
        (top,) = _run(net, case, [x, np.zeros(3, np.float32)])
        np.testing.assert_allclose(top, np.stack([moved, [0.2] * 3], axis=1), rtol=1e-5)
        net.blobs["y0"].diff[...] = 2
        net.backward()
        np.testing.assert_allclose(net.blobs["b0"].diff, np.stack([2 * slopes, [2] * 3], axis=1), rtol=1e-4)
        layer = f'type: "AdaCosAddmScale" adacos_add_m_scale_param {{ num_classes: 10 m: {m} }}'
        case = Case("by_hand", layer, ((3, 2), (3,)))
        net = _net(engine, case)
        first = scale
        for _ in range(2):  # the middle angle is π/4 at most; item 2 has no label
            (top,) = _run(net, case, [x, np.float32([0, 0, -1])])
            others = 2 * (1 + np.exp(first * 0.2)) + np.exp(first * np.cos(3.0)) + np.exp(first * 0.2)
            first = np.log(others / 3) / np.cos(np.pi / 4)
            due = np.stack([[moved[0], moved[1], np.cos(3.0)], [0.2] * 3], axis=1)
            np.testing.assert_allclose(top, first * due, rtol=1e-5)


def test_voxels_without_a_class_have_a_gradient() -> None:
    case = Case("voxels", 'type: "VoxelSoftmaxWithLoss"', ((1, 2, 1, 1, 2), (1, 1, 1, 1, 2)))
    for engine in ENGINES:
        net = _net(engine, case)
        x = np.log(np.float32([0.25, 0.5, 0.75, 0.5])).reshape(1, 2, 1, 1, 2)
        (loss,) = _run(net, case, [x, np.float32([0, 9]).reshape(1, 1, 1, 1, 2)])
        np.testing.assert_allclose(loss, np.log(4) / 2, rtol=1e-6)
        net.backward()
        np.testing.assert_allclose(
            net.blobs["b0"].diff.ravel(), np.array([-0.75, 0.5, 0.75, 0.5]) / 2, rtol=1e-6
        )


def test_edit_distance() -> None:
    assert [
        edit_distance(*words) for words in (("kitten", "sitting"), ("", "abc"), ("abc", ""), ("ab", "ab"))
    ] == [3, 3, 3, 0]


@pytest.mark.parametrize(
    ("layer", "fork"),
    [
        ('type: "BN"', "PSPNet"),
        ('type: "BN" bn_param { slope_filler { value: 1 } }', "PSPNet"),
        ('type: "BN" bn_param { bn_mode: INFERENCE }', "SegNet"),
        ('type: "BN" bn_param { shift_filler { value: 1 } }', "SegNet"),
        ('type: "Upsample" bottom: "a"', "MobileNet-YOLO"),
        ('type: "Upsample" bottom: "a" bottom: "b"', "SegNet"),
        ('type: "SoftmaxWithLoss"', ""),
        ('type: "SoftmaxWithLoss" loss_param { weight_by_label_freqs: true }', "SegNet"),
        ('type: "L1Loss" bottom: "a" bottom: "b"', "NVCaffe"),
        ('type: "L1Loss" bottom: "a"', "FlowNet2"),
        ('type: "L1Loss" bottom: "a" bottom: "b" l1_loss_param { plateau: 1 }', "FlowNet2"),
        ('type: "Correlation" correlation_param { kernel_size: 1 }', "FlowNet2"),
        ('type: "Correlation" correlation_param { displacement: 1 }', "Tiny-DSOD"),
    ],
)
def test_which_forks_layer_is_meant(layer: str, fork: str) -> None:
    (message,) = parse_net(f'layer {{ name: "l" {layer} }}').layer
    assert meaning(message) == fork
