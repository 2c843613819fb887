"""What Caffe's command-line tools did: the same flags, lines, streams, files and exit statuses."""

TOOLS = {
    "caffe": "port.tools.caffe:main",
    "convert_imageset": "port.tools.convert_imageset:main",
    "compute_image_mean": "port.tools.compute_image_mean:main",
    "extract_features": "port.tools.extract_features:main",
    "upgrade_net_proto_text": "port.tools.upgrade_proto:net_text",
    "upgrade_net_proto_binary": "port.tools.upgrade_proto:net_binary",
    "upgrade_solver_proto_text": "port.tools.upgrade_proto:solver_text",
}
"""Caffe's programs, by name: module:function, which takes the arguments and returns the exit status."""

SCRIPTS = {
    "parse_log": "port.tools.parse_log:main",
    "plot_training_log": "port.tools.plot_training_log:main",
    "resize_and_crop_images": "port.tools.resize_and_crop_images:main",
    "summarize": "port.tools.summarize:main",
}
"""Caffe's Python scripts, by name without `.py`; as `TOOLS`."""
