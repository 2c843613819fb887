"""The forks of Caffe whose layers and fields this suite knows: where they are, and what they added.

What a layer type or a field of a fork computes is said where it is declared (prototxt/layers/). Whether the
suite runs it is for the planner to tell: a type that is declared there is supported, others are known here by
name alone, so that a message can say where they come from.
"""

from prototxt.caffe_pb2 import LayerParameter

FORKS: dict[str, str] = {
    "OAA": "PengtaoJiang/OAA",
    "SSD": "weiliu89/caffe, ssd",
    "Fast R-CNN": "rbgirshick/caffe-fast-rcnn, fast-rcnn",
    "Faster R-CNN": "rbgirshick/caffe-fast-rcnn, faster-rcnn; ShaoqingRen/caffe",
    "R-FCN": "daijifeng001/caffe-rfcn",
    "MNC": "daijifeng001/caffe-mnc",
    "Mask R-CNN": "jasjeetIM/Mask-RCNN",
    "DeepLab v1": "TheLegendAli/DeepLab-Context",
    "DeepLab v2": "xmyqsh/deeplab-v2; jay-mahadeokar/deeplab-public-ver2",
    "PSPNet": "hszhao/PSPNet",
    "SegNet": "alexgkendall/caffe-segnet",
    "ENet": "TimoSaemann/caffe-enet",
    "DeconvNet": "HyeonwooNoh/caffe",
    "CRF-RNN": "torrvision/caffe, crfrnn; bittnt/caffe",
    "CCNN": "pathak22/ccnn",
    "HED": "s9xie/hed",
    "NVCaffe": "NVIDIA/caffe, caffe-0.17",
    "Intel": "intel/caffe",
    "SENet": "hujie-frank/SENet",
    "ShuffleNet": "farmingyard/ShuffleNet",
    "caffe-face": "ydwen/caffe-face",
    "L-Softmax": "wy1iu/LargeMargin_Softmax_Loss",
    "happynear": "happynear/caffe-windows, ms",
    "arcface": "xialuxi/arcface-caffe",
    "CPM": "CMU-Perceptual-Computing-Lab/caffe_train; CMU-Perceptual-Computing-Lab/caffe_rtpose",
    "OpenPose": "CMU-Perceptual-Computing-Lab/openpose_caffe_train",
    "FlowNet2": "lmb-freiburg/flownet2",
    "PWC-Net": "NVlabs/PWC-Net",
    "C3D": "facebook/C3D",
    "TSN": "yjxiong/caffe, action_recog",
    "LRCN": "LisaAnne/lisa-caffe-public; jeffdonahue/caffe",
    "MS-CNN": "zhaoweicai/mscnn",
    "CTPN": "tianzhi0549/CTPN",
    "caffe_ocr": "senlinuc/caffe_ocr",
    "caffe-lstm": "junhyukoh/caffe-lstm",
    "TextBoxes": "MhLiao/TextBoxes; MhLiao/TextBoxes_plusplus",
    "RefineDet": "sfzhang15/RefineDet",
    "MobileNet-SSD": "chuanqi305/ssd",
    "MobileNet-YOLO": "eric612/MobileNet-YOLO",
    "Tiny-DSOD": "lyxok1/Tiny-DSOD",
    "DenseBlock": "Tongcheng/caffe",
    "frcnn": "makefile/frcnn",
    "RMPE": "MVIG-SJTU/RMPE",
    "DeepCut": "eldar/deepcut-cnn",
    "heatmap": "tpfister/caffe-heatmap",
    "PixelNet": "aayushbansal/PixelNet",
    "Cysu": "Cysu/caffe",
    "Ristretto": "MichalBusta/caffe",
    "Synopsys": "foss-for-synopsys-dwc-arc-processors/synopsys-caffe",
    "ExcitationBP": "jimmie33/Caffe-ExcitationBP",
}
"""A fork's short name, which caffe.proto's comments use, and its repositories, with the branch if not the first."""

FORK_TYPES: dict[str, tuple[str, ...]] = {
    "Accum": ("FlowNet2",),
    "AccuracyHeatmap": ("RMPE",),
    "AdaCosAddmScale": ("arcface",),
    "AdaptiveBiasChannel": ("DeepLab v1", "DeepLab v2", "PSPNet"),
    "AnnotatedData": (
        "SSD", "Intel", "TextBoxes", "RefineDet", "MobileNet-SSD", "MobileNet-YOLO", "Tiny-DSOD", "frcnn",
        "RMPE",
    ),
    "AnnotatedRData": ("frcnn",),
    "Arccos": ("happynear",),
    "AssistedExcitation": ("MobileNet-YOLO",),
    "AutoCrop": ("DeconvNet", "CRF-RNN", "HED"),
    "Axpy": ("NVCaffe", "Intel", "SENet", "happynear", "arcface", "MobileNet-YOLO"),
    "BatchContrastiveLoss": ("happynear",),
    "BatchReduction": ("TSN",),
    "BboxAccuracy": ("MS-CNN",),
    "BiasChannel": ("DeepLab v1", "DeepLab v2", "PSPNet"),
    "BinaryAccuracy": ("DeconvNet",),
    "BlackAugmentation": ("FlowNet2",),
    "BlackHole": ("C3D",),
    "BN": ("PSPNet", "SegNet", "ENet", "DeconvNet", "L-Softmax", "happynear", "TSN", "Cysu"),
    "BoxAnnotatorOHEM": ("R-FCN", "Intel", "frcnn"),
    "BoxData": ("Intel",),
    "BoxOutput": ("MS-CNN",),
    "CensorLabel": ("DeepLab v1",),
    "CenterLoss": ("caffe-face", "happynear"),
    "ChannelAggregator": ("DeepLab v1",),
    "ChannelNorm": ("FlowNet2",),
    "ChannelScale": ("happynear",),
    "ClassLabel": ("Tiny-DSOD",),
    "CombinedMargin": ("arcface",),
    "ConditionSoftmax": ("Tiny-DSOD",),
    "ConfidencePenaltyLoss": ("happynear",),
    "Convolution3D": ("C3D",),
    "ConvolutionDepthwise": ("Tiny-DSOD", "frcnn"),
    "ConvolutionRistretto": ("Ristretto",),
    "Correlation": ("FlowNet2", "Tiny-DSOD"),
    "Correlation1D": ("FlowNet2",),
    "CorrelationLoss": ("happynear",),
    "CosinAddm": ("arcface",),
    "Cosine": ("happynear",),
    "CPMData": ("CPM",),
    "CrossEntropyLoss": ("Tiny-DSOD",),
    "CTCGreedyDecoder": ("caffe_ocr", "TextBoxes"),
    "CTCLoss": ("TextBoxes",),
    "CuDNNDeconvolution": ("frcnn",),
    "CustomData": ("FlowNet2",),
    "DataAugmentation": ("FlowNet2",),
    "DataHeatmap": ("RMPE", "heatmap"),
    "DecodeBBox": ("MS-CNN", "frcnn"),
    "Deconvolution3D": ("C3D",),
    "DeconvolutionRistretto": ("Ristretto",),
    "DeformableConvolution": ("frcnn",),
    "DeformablePSROIPooling": ("frcnn",),
    "DeformCorrelation": ("Tiny-DSOD",),
    "DeformSample": ("Tiny-DSOD",),
    "DenseBlock": ("caffe_ocr", "DenseBlock"),
    "DenseCRF": ("DeepLab v1", "DeepLab v2", "PSPNet", "CCNN"),
    "DenseImageData": ("SegNet", "ENet"),
    "DepthwiseConvolution": ("arcface", "MobileNet-YOLO"),
    "DetectionAccuracy": ("MS-CNN",),
    "DetectionEvaluate": (
        "SSD", "NVCaffe", "Intel", "TextBoxes", "RefineDet", "MobileNet-SSD", "MobileNet-YOLO", "Tiny-DSOD",
        "RMPE",
    ),
    "DetectionLoss": ("MS-CNN",),
    "DetectionOutput": (
        "SSD", "NVCaffe", "Intel", "TextBoxes", "RefineDet", "MobileNet-SSD", "MobileNet-YOLO", "Tiny-DSOD",
        "frcnn", "RMPE",
    ),
    "DetectNetTransformation": ("NVCaffe",),
    "DisparityData": ("FlowNet2",),
    "DomainTransform": ("DeepLab v2", "PSPNet"),
    "DomainTransformForwardOnly": ("DeepLab v2", "PSPNet"),
    "DominantChannel": ("DeepLab v1",),
    "Downsample": ("FlowNet2",),
    "DownSampling": ("C3D",),
    "DropoutChannel": ("DeconvNet",),
    "EltwiseAccuracy": ("DeconvNet",),
    "EltwiseAffine": ("RMPE",),
    "Enhance": ("Tiny-DSOD",),
    "EuclideanLossHeatmap": ("RMPE", "heatmap"),
    "EuclideanmaskLoss": ("CPM",),
    "EvalDetection": ("Intel",),
    "FCNAccuracy": ("happynear",),
    "FcRistretto": ("Ristretto",),
    "Flip": ("happynear",),
    "FloatReader": ("FlowNet2",),
    "FloatWriter": ("FlowNet2",),
    "FlowAugmentation": ("FlowNet2",),
    "FLOWriter": ("FlowNet2",),
    "FlowWarp": ("FlowNet2",),
    "FocalLoss": ("happynear", "frcnn"),
    "FPNAnchorTarget": ("frcnn",),
    "FPNProposal": ("frcnn",),
    "FPNProposalTarget": ("frcnn",),
    "FrcnnAnchorTarget": ("frcnn",),
    "FrcnnProposal": ("frcnn",),
    "FrcnnProposalTarget": ("frcnn",),
    "FrcnnRoiData": ("frcnn",),
    "FrcnnVidData": ("frcnn",),
    "GainChannel": ("DeepLab v1",),
    "Gather": ("TSN",),
    "GaussianYolov3": ("MobileNet-YOLO",),
    "GeneralContrastiveLoss": ("happynear",),
    "GeneralTripletLoss": ("happynear",),
    "GenerateAugmentationParameters": ("FlowNet2",),
    "GlobalLSEMargin": ("happynear",),
    "Gram": ("happynear",),
    "Histogram": ("DeepLab v1",),
    "Hotspot": ("happynear",),
    "IgnoreOverlay": ("DeepLab v1",),
    "ImageGtData": ("MS-CNN",),
    "ImageLabelmapData": ("OAA", "HED"),
    "ImageSegData": ("OAA", "DeepLab v1", "DeepLab v2", "PSPNet", "DeconvNet"),
    "ImgReader": ("FlowNet2",),
    "ImgWriter": ("FlowNet2",),
    "ImResize": ("CPM",),
    "InnerDistance": ("happynear",),
    "Insanity": ("happynear",),
    "Interp": ("OAA", "DeepLab v1", "DeepLab v2", "PSPNet", "caffe_ocr"),
    "L1Loss": ("NVCaffe", "FlowNet2"),
    "L2Normalize": ("C3D",),
    "LabelSpecificAdd": ("happynear",),
    "LaneData": ("MobileNet-YOLO",),
    "LargeMarginInnerProduct": ("L-Softmax", "happynear"),
    "Local": ("happynear",),
    "LpqLoss": ("FlowNet2",),
    "LRNRistretto": ("Ristretto",),
    "Lstm": ("CTPN", "caffe_ocr", "caffe-lstm", "frcnn"),
    "MarginInnerProduct": ("happynear",),
    "MaskPooling": ("MNC",),
    "MaskResize": ("MNC",),
    "MatRead": ("DeepLab v1", "DeepLab v2", "PSPNet"),
    "MatWrite": ("DeepLab v1", "DeepLab v2", "PSPNet"),
    "Maximum": ("CPM",),
    "Mean": ("FlowNet2",),
    "MKLBatchNorm": ("Intel",),
    "MM": ("Tiny-DSOD",),
    "MnActivation": ("Intel",),
    "Module": ("frcnn",),
    "MovingNormalize": ("happynear",),
    "MPIGather": ("Cysu",),
    "MPIScatter": ("Cysu",),
    "MultiBoxLoss": (
        "SSD", "NVCaffe", "Intel", "TextBoxes", "RefineDet", "MobileNet-SSD", "MobileNet-YOLO", "Tiny-DSOD",
        "frcnn", "RMPE",
    ),
    "MultiLabelImageData": ("happynear",),
    "MultiRBoxLoss": ("frcnn",),
    "MultiStageMeanfield": ("CRF-RNN",),
    "NCALoss": ("happynear",),
    "NegReLU": ("FlowNet2",),
    "Nms": ("CPM",),
    "Noise": ("happynear",),
    "Normalize": (
        "SSD", "NVCaffe", "Intel", "happynear", "TSN", "TextBoxes", "RefineDet", "MobileNet-SSD",
        "MobileNet-YOLO", "Tiny-DSOD", "frcnn", "RMPE", "PixelNet",
    ),
    "NormConvolution": ("Tiny-DSOD",),
    "NormL2": ("arcface",),
    "OneHot": ("DeepLab v1",),
    "OPData": ("OpenPose",),
    "OPVideo": ("OpenPose",),
    "Padding": ("DeepLab v1",),
    "Pairwise": ("happynear",),
    "Permute": (
        "SSD", "NVCaffe", "Intel", "happynear", "TextBoxes", "RefineDet", "MobileNet-SSD", "MobileNet-YOLO",
        "Tiny-DSOD", "frcnn", "RMPE",
    ),
    "PFMWriter": ("FlowNet2",),
    "Pooling3D": ("C3D",),
    "PoseData": ("DeepCut",),
    "PredictBox": ("happynear",),
    "PredictionHeatmap": ("RMPE",),
    "PriorBox": (
        "SSD", "NVCaffe", "Intel", "TextBoxes", "RefineDet", "MobileNet-SSD", "MobileNet-YOLO", "Tiny-DSOD",
        "frcnn", "RMPE",
    ),
    "PriorRBox": ("frcnn",),
    "Proposal": ("happynear",),
    "ProposalTarget": ("MS-CNN",),
    "PSROIAlign": ("frcnn",),
    "PSROIPooling": ("R-FCN", "Intel", "happynear", "frcnn"),
    "RandBI": ("PixelNet",),
    "RandCat": ("PixelNet",),
    "RandCatConv": ("PixelNet",),
    "RandComp": ("PixelNet",),
    "RandomShuffle": ("Tiny-DSOD",),
    "RDetectionOutput": ("frcnn",),
    "RedAccuracy": ("DeconvNet",),
    "RedSoftmaxWithLoss": ("DeconvNet",),
    "RegionLoss": ("Intel", "MobileNet-YOLO"),
    "RelativeError": ("DeepLab v1",),
    "ReLU6": ("MobileNet-SSD", "MobileNet-YOLO"),
    "Reorg": ("Intel", "MobileNet-YOLO"),
    "Resample": ("FlowNet2",),
    "Resize": ("happynear",),
    "Reverse": ("CTPN", "caffe_ocr", "TextBoxes", "frcnn"),
    "ReverseTime": ("caffe_ocr",),
    "ROIAlign": ("Mask R-CNN", "MS-CNN", "frcnn"),
    "ROIMaskPooling": ("frcnn",),
    "ROIPadding": ("frcnn",),
    "ROIPooling": (
        "Faster R-CNN", "R-FCN", "MNC", "Intel", "happynear", "TSN", "MS-CNN", "CTPN", "TextBoxes", "frcnn",
    ),
    "ROIWarping": ("MNC",),
    "Scatter": ("TSN",),
    "SegAccuracy": ("DeepLab v1", "DeepLab v2", "PSPNet"),
    "SegData": ("TSN",),
    "SegmentationEvaluate": ("MobileNet-YOLO",),
    "SelectSegBinary": ("DeconvNet",),
    "SeLU": ("Synopsys",),
    "SeLUDropout": ("Synopsys",),
    "ShuffleChannel": ("ShuffleNet",),
    "Slope": ("happynear",),
    "SmoothL1Loss": (
        "SSD", "Faster R-CNN", "R-FCN", "MNC", "NVCaffe", "Intel", "happynear", "arcface", "TSN", "MS-CNN",
        "CTPN", "TextBoxes", "RefineDet", "MobileNet-SSD", "MobileNet-YOLO", "Tiny-DSOD", "frcnn", "RMPE",
        "DeepCut", "Cysu",
    ),
    "SmoothL1LossOHEM": ("R-FCN", "Intel", "frcnn"),
    "SoftContrastiveLoss": ("happynear",),
    "SoftmaxWithLossMultiLabel": ("caffe_ocr",),
    "SoftmaxWithLossOHEM": ("R-FCN", "Intel", "frcnn"),
    "SoftmaxWithLossVec": ("DeepCut",),
    "SoftTruncation": ("happynear",),
    "SpatialCorrelation": ("Tiny-DSOD",),
    "SpatialDropout": ("Intel",),
    "SpatialProduct": ("DeepLab v2", "PSPNet"),
    "SpatialTransformer": ("RMPE",),
    "SubRegion": ("happynear",),
    "SuperpixelPooling": ("OAA",),
    "SuperpixelPoolingTest": ("OAA",),
    "SyncBN": ("TSN",),
    "Transformer": ("happynear",),
    "Transpose": ("CTPN", "caffe_ocr", "frcnn"),
    "TripletLoss": ("happynear",),
    "TRT": ("NVCaffe",),
    "Truncation": ("happynear",),
    "UniqueLabel": ("DeepLab v1", "DeepLab v2", "PSPNet"),
    "Unpooling": ("DeconvNet",),
    "Upsample": ("SegNet", "ENet", "MobileNet-YOLO", "Tiny-DSOD", "frcnn"),
    "VideoData": (
        "SSD", "Intel", "C3D", "TSN", "TextBoxes", "RefineDet", "MobileNet-SSD", "Tiny-DSOD", "frcnn", "RMPE",
    ),
    "VideoSegmentationData": ("C3D",),
    "VideoWithVoxelTruthData": ("C3D",),
    "VolumeData": ("C3D",),
    "VoxelCustomLoss": ("C3D",),
    "VoxelSoftmax": ("C3D",),
    "VoxelSoftmaxWithLoss": ("C3D",),
    "Warp": ("PWC-Net",),
    "WarpCTCLoss": ("caffe_ocr",),
    "WeakSegData": ("OAA",),
    "WindowClsData": ("DeconvNet",),
    "WindowInstSegData": ("DeconvNet",),
    "WindowSegBinary": ("DeconvNet",),
    "WindowSegData": ("DeconvNet",),
    "WingLoss": ("arcface",),
    "YoloDetectionOutput": ("MobileNet-YOLO",),
    "YoloSeg": ("MobileNet-YOLO",),
    "Yolov3": ("MobileNet-YOLO",),
    "Yolov3DetectionOutput": ("MobileNet-YOLO",),
}  # fmt: skip
"""A layer type that BVLC's Caffe lacks, and the forks that have it."""

HARMLESS: frozenset[str] = frozenset(
    {
        *("forward_type", "backward_type", "forward_math", "backward_math", "cudnn_math_override"),
        *("default_forward_type", "default_backward_type", "default_forward_math", "default_backward_math"),
        *("default_cudnn_math_override", "default_conv_algos_override", "conv_algos_override"),
        *("global_grad_scale", "global_grad_scale_adaptive", "solver_data_type"),
        *("reduce_buckets", "eltwise_mem_sharing", "mem_param", "compile_net_state", "engine", "multinode"),
        *("mn_grad_compress_param", "conv_algorithm", "cudnn_convolution_algo_seeker"),
        *("optimization", "threads", "parser_threads", "cache", "precache", "disk_reader_threads"),
        *("use_gpu_transform", "forward_packing", "huge_video_dataset", "auto_insert_gathers"),
        *("debug", "debug_params", "verbose", "use_log", "show_data", "display", "visualise"),
        *("visualise_channel", "richness", "store_blobs_in_old_format", "reshape_every_iter"),
        *("show_per_class_result", "ap_version"),
    }
)
"""Fields of forks that set precision, speed, memory or what is printed: a float32 result does not change."""

PRECISION: frozenset[str] = frozenset(
    name for name in HARMLESS if name.endswith(("_type", "_math", "_math_override"))
) | {"global_grad_scale", "global_grad_scale_adaptive"}
"""Those of them that ask for another precision."""

SUPPORTED_FIELDS: dict[str, tuple[str, ...]] = {
    "BatchNormParameter.bias_filler": ("BatchNorm",),
    "BatchNormParameter.scale_bias": ("BatchNorm",),
    "BatchNormParameter.scale_filler": ("BatchNorm",),
    "ConvolutionParameter.filter_group": ("Convolution3D", "Deconvolution3D"),
    "ConvolutionParameter.kernel_depth": ("Convolution3D", "Deconvolution3D"),
    "ConvolutionParameter.temporal_pad": ("Convolution3D", "Deconvolution3D"),
    "ConvolutionParameter.temporal_stride": ("Convolution3D", "Deconvolution3D"),
    "BatchNormParameter.stats_batch_size": ("BatchNorm",),
    "DropoutParameter.sample_weights_test": ("Dropout",),
    "DropoutParameter.scale_train": ("Dropout",),
    "FillerParameter.diag_val": (),
    "ImageDataParameter.has_label": ("ImageSegData",),
    "ImageDataParameter.mean_value": ("VideoData",),
    "ImageDataParameter.new_length": ("VideoData",),
    "ImageDataParameter.sampling_rate": ("VideoData",),
    "ImageDataParameter.use_image": ("VideoData",),
    "ImageDataParameter.use_temporal_jitter": ("VideoData",),
    "InnerProductParameter.normalize": ("InnerProduct",),
    "LossParameter.class_weighting": ("SoftmaxWithLoss",),
    "LossParameter.normalization": ("SmoothL1LossOHEM", "SoftmaxWithLossOHEM"),
    "LossParameter.pre_fixed_normalizer": ("SmoothL1LossOHEM", "SoftmaxWithLossOHEM"),
    "LossParameter.weight_by_label_freqs": ("SoftmaxWithLoss",),
    "PoolingParameter.kernel_depth": ("Pooling3D",),
    "PoolingParameter.temporal_stride": ("Pooling3D",),
    "NetParameter.bn_stats_batch_size": (),
    "WindowDataParameter.config": ("FrcnnRoiData", "FrcnnVidData"),
    "TransformationParameter.crop_h": ("AnnotatedData", "VideoData"),
    "TransformationParameter.crop_w": ("AnnotatedData", "VideoData"),
    "TransformationParameter.distort_param": ("AnnotatedData",),
    "TransformationParameter.emit_constraint": ("AnnotatedData",),
    "TransformationParameter.expand_param": ("AnnotatedData",),
    "TransformationParameter.noise_param": ("AnnotatedData", "VideoData"),
    "TransformationParameter.resize_param": ("AnnotatedData", "DetectionOutput", "VideoData"),
}
"""Fields that forks added to BVLC's messages, and fields of BVLC's to whose enums they added values, that are
supported: by these layer types, by all if none is named. The layer type itself must be declared too."""


_TSN = ("fix_crop", "is_flow", "max_distort", "more_fix_crop", "multi_scale", "scale_ratios")
_C3D = ("is_flow", "use_label", "use_byte_input")
_FLOWNET2 = (
    *("limit_samples", "preselection_file", "preselection_label", "range_start", "range_end", "rand_permute"),
    *("rand_permute_order", "rand_permute_seed", "slice_point", "encoding", "subtract", "permute_every_iter"),
    "block_size",
)
_VOXELS = ("is_flow", "mean_value", "num_truth_channels", "truth_scale")

UNREAD_FIELDS: dict[str, tuple[str, ...]] = {
    "DataParameter.shuffle": ("Data",),
    **{f"DataParameter.{name}": ("CustomData",) for name in _FLOWNET2},
    "TransformationParameter.random_aspect_ratio_param": ("Data", "ImageData"),
    "TransformationParameter.random_resize_param": ("Data", "ImageData"),
    **{f"TransformationParameter.{name}": ("VideoData",) for name in _TSN},
    **{f"ImageDataParameter.{name}": ("VideoData",) for name in _C3D},
    **{
        f"ImageDataParameter.{name}": (
            "VideoSegmentationData",
            "VideoWithVoxelTruthData",
            *("VideoData" for known in _C3D if known == name),
        )
        for name in _VOXELS
    },
}
"""Fields of data layers that change what is read. Nets with them are planned; a data layer refuses them as it opens
its files."""


def known_from(layer_type: str) -> str:
    """Where a layer type is known from: "SSD (weiliu89/caffe, ssd)"; "" if it is not."""
    forks = FORK_TYPES.get(layer_type, ())
    return f"{forks[0]} ({FORKS[forks[0]]})" + (" and others" if len(forks) > 1 else "") if forks else ""


def meaning(layer: LayerParameter) -> str:
    """The fork whose layer is meant, where two forks gave one type name to different layers; else "".

    Told by what only one of them has: fields, or the number of bottoms.
    """
    kind = layer.type
    if kind == "BN":
        segnet = ("scale_filler", "shift_filler", "bn_mode")
        return "SegNet" if any(layer.bn_param.HasField(name) for name in segnet) else "PSPNet"
    if kind == "Upsample":
        return "SegNet" if len(layer.bottom) == 2 else "MobileNet-YOLO"
    if kind == "SmoothL1Loss":
        rcnn = len(layer.bottom) > 2 or layer.HasField("smooth_l1_loss_param")
        return "Faster R-CNN" if rcnn else "SSD"
    if kind == "SoftmaxWithLoss":
        weighs = layer.loss_param.HasField("weight_by_label_freqs") or layer.loss_param.class_weighting
        return "SegNet" if weighs else ""
    if kind == "L1Loss":
        return "FlowNet2" if layer.HasField("l1_loss_param") or len(layer.bottom) == 1 else "NVCaffe"
    if kind == "Correlation":
        dsod = any(layer.correlation_param.HasField(name) for name in ("displacement", "dilation"))
        return "Tiny-DSOD" if dsod else "FlowNet2"
    if kind == "ROIAlign":
        return "Mask R-CNN" if layer.HasField("roi_align_param") else "MS-CNN"
    if kind == "VideoData":
        settings = layer.video_data_param
        if any(settings.HasField(name) for name in ("num_segments", "modality", "name_pattern")):
            return "TSN"
        return "C3D" if settings.source or layer.HasField("image_data_param") else "SSD"
    if kind == "Normalize":
        return "happynear" if layer.HasField("normalize_param") or len(layer.top) == 2 else "SSD"
    return ""
