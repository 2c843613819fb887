"""What Caffe's command-line tools did: the same flags, lines, streams, files and exit statuses."""

TOOLS = {
    "caffe": "port.tools.caffe",
    "convert_imageset": "port.tools.convert_imageset",
    "compute_image_mean": "port.tools.compute_image_mean",
    "extract_features": "port.tools.extract_features",
    "upgrade_net_proto_text": "port.tools.upgrade_net_proto_text",
    "upgrade_net_proto_binary": "port.tools.upgrade_net_proto_binary",
    "upgrade_solver_proto_text": "port.tools.upgrade_solver_proto_text",
}
"""Caffe's programs, by name: the module whose `main(arguments)` returns the exit status."""

SCRIPTS = {
    "parse_log": "port.tools.parse_log",
    "plot_training_log": "port.tools.plot_training_log",
    "resize_and_crop_images": "port.tools.resize_and_crop_images",
    "summarize": "port.tools.summarize",
}
"""Caffe's Python scripts, by name without `.py`; as `TOOLS`."""
