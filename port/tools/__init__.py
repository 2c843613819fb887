"""What Caffe's command-line tools did: the same flags, lines, streams, files and exit statuses.

Each runs as `seenet NAME`, as `python -m port.tools NAME`, and under its old name by the launchers that
`seenet launchers` writes.
"""

TOOLS = {
    "caffe": ("port.tools.caffe:main", "Train, test or time a net, or query GPUs, as `caffe` does."),
    "compute_image_mean": (
        "port.tools.compute_image_mean:main",
        "Compute the mean image of an LMDB, as Caffe's compute_image_mean does.",
    ),
    "convert_imageset": (
        "port.tools.convert_imageset:main",
        "Make an LMDB from a list of images, as Caffe's convert_imageset does.",
    ),
    "extract_features": (
        "port.tools.extract_features:main",
        "Write blobs of a net's passes into databases, as Caffe's extract_features does.",
    ),
    "upgrade_net_proto_binary": (
        "port.tools.upgrade_proto:net_binary",
        "Write a .caffemodel of any age in the current form.",
    ),
    "upgrade_net_proto_text": (
        "port.tools.upgrade_proto:net_text",
        "Write a net's prototxt of any age in the current form.",
    ),
    "upgrade_solver_proto_text": (
        "port.tools.upgrade_proto:solver_text",
        "Write a solver's prototxt of any age in the current form.",
    ),
}
"""Caffe's programs by name: module:function, and what it does. The function takes the arguments and returns the
exit status."""

SCRIPTS = {
    "parse_log": ("port.tools.parse_log:main", "Write a training log's numbers as two CSV files."),
    "plot_training_log": (
        "port.tools.plot_training_log:main",
        "Plot any two columns of training logs, as PNG or CSV.",
    ),
    "resize_and_crop_images": (
        "port.tools.resize_and_crop_images:main",
        "Resize images to a shorter side and crop the middle square.",
    ),
    "summarize": ("port.tools.summarize:main", "Print a net's layers as a table, in colours."),
}
"""Caffe's Python scripts by name, without `.py`; as `TOOLS`."""
