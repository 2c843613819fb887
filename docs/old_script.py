"""A script for pycaffe, as many were written; run it from the repository's folder."""

import caffe
import numpy as np

caffe.set_mode_cpu()
net = caffe.Net("prototxt/shapes/deploy.prototxt", "weights/shapes/seenet.caffemodel", caffe.TEST)

image = caffe.io.load_image("docs/generated.jpg")
transformer = caffe.io.Transformer({"data": (1, 3, 192, 192)})
transformer.set_transpose("data", (2, 0, 1))
transformer.set_channel_swap("data", (2, 1, 0))
transformer.set_raw_scale("data", 255)
transformer.set_mean("data", np.array([104.007, 116.669, 122.679]))

net.blobs["data"].reshape(1, 3, 192, 192)
net.blobs["label"].reshape(1, 1, 1, 20)
net.blobs["data"].data[0] = transformer.preprocess("data", image)
net.blobs["label"].data[...] = 0
net.forward()

for name in ("conv5_3", "score_b1"):
    print(name, net.blobs[name].data.shape, abs(net.blobs[name].data).max())
