"""SeeNet's training data as a pycaffe layer, for genuine Caffe and for the port alike.

    layer { name: "data" type: "Python" top: "data" top: "label"
      python_param { module: "voc_layers" layer: "VOCDataLayer"
        param_str: "{'list': 'train_cls.txt', 'images': 'JPEGImages', 'short_side': 224}" } }

Genuine Caffe finds it with this folder on PYTHONPATH. The port has the same layer built in, reading ahead in
threads; both draw the same images, crops and mirrors. `voc_data.VocImages` says what the settings are.
"""

import caffe
import voc_data


class VOCDataLayer(caffe.Layer):
    """Tops: data (batch, 3, height, width), BGR less the mean, and label (batch, classes) of 0 and 1."""

    def setup(self, bottom, top):
        if len(bottom) != 0 or len(top) != 2:
            raise ValueError("VOCDataLayer takes no bottom and makes two tops, data and label")
        settings = voc_data.settings_of(self.param_str)
        train = getattr(self, "phase", caffe.TRAIN) == caffe.TRAIN
        self.source = voc_data.VocImages(settings, train, _share if train else lambda: (0, 1))
        self._tops = None

    def reshape(self, bottom, top):
        if self._tops is None:  # Caffe calls this more often than forward
            self._before = self.source.state()
            self._tops = self.source.load(self.source.draw())
        for blob, values in zip(top, self._tops):  # noqa: B905  (older Pythons)
            blob.reshape(*values.shape)

    def forward(self, bottom, top):
        for blob, values in zip(top, self._tops):  # noqa: B905
            blob.data[...] = values
        self._tops = None

    def backward(self, top, propagate_down, bottom):
        pass

    def state(self):
        """Where reading stands after the last forward, as plain data."""
        return self.source.state() if self._tops is None else self._before

    def restore(self, state):
        """Go on where `state()` was taken."""
        self.source.restore(state)
        self._tops = None


def _share():
    """This process's rank and how many share the training set; older Caffes cannot tell."""
    if not hasattr(caffe, "solver_rank"):
        return 0, 1
    return caffe.solver_rank(), caffe.solver_count()
