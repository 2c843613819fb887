"""Connectionist temporal classification, of caffe_ocr."""

import numpy as np

from prototxt.layers.ctc import edit_distance
from reference.checks import class_indices, refuse_gradient
from reference.layer import Arrays, Layer, layer
from reference.layers.normalisation import softmax


@layer("WarpCTCLoss")
class WarpCTCLoss(Layer):
    """-log of the probability of each stream's labels, blanks and repetitions taken out; the mean over the streams.

    The scores' gradient is that of the sum, not of the mean, whatever the loss weight: the published layer has it
    computed by warp-ctc as it runs forwards. A stream with too few steps for its labels costs 0.
    """

    def run(self, scores: np.ndarray, labels: np.ndarray) -> np.floating:
        blank = self.param.ctc_loss_param.blank_index
        steps, streams = scores.shape[:2]
        prob = softmax(scores.reshape(steps, streams, -1), 2)
        classes, _ = class_indices(labels.reshape(streams, -1), prob.shape[2])
        self.slopes = np.zeros_like(prob)
        costs = np.zeros(streams, self.dtype)
        for n, row in enumerate(classes):
            wanted = row[row != blank]
            if len(wanted) + (wanted[1:] == wanted[:-1]).sum() <= steps:
                costs[n], self.slopes[:, n] = self._stream(prob[:, n], wanted, blank)
        return costs.sum() / self.dtype.type(streams)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> list[np.ndarray | None]:
        refuse_gradient(self, 1, "labels")
        return [self.slopes.reshape(bottoms[0].shape), None]

    def _stream(self, prob: np.ndarray, labels: np.ndarray, blank: int) -> tuple[np.floating, np.ndarray]:
        """The cost of one stream and its slope by the scores, by the forward and backward variables' logarithms."""
        path = np.full(2 * len(labels) + 1, blank)
        path[1::2] = labels
        with np.errstate(divide="ignore"):
            logs = np.log(prob)[:, path]
        skips = np.zeros(len(path), bool)
        skips[2:] = (path[2:] != blank) & (path[2:] != path[:-2])
        forth = self._reached(logs, skips)
        back = self._reached(logs[::-1, ::-1], np.append(skips[2:], [False, False][: len(skips)])[::-1])[
            ::-1, ::-1
        ]
        total = np.logaddexp.reduce(forth[-1, -2:])
        share = np.exp(forth + back - logs - total, where=np.isfinite(logs), out=np.zeros_like(logs))
        slope = prob.copy()
        np.subtract.at(slope, (np.arange(len(prob))[:, None], path), share)
        return -total, slope

    def _reached(self, logs: np.ndarray, skips: np.ndarray) -> np.ndarray:
        """Logarithms of the probabilities of all ways up to each place of the path at each step."""
        reached = np.full_like(logs, -np.inf)
        reached[0, :2] = logs[0, :2]
        for t in range(1, len(logs)):
            before = reached[t - 1]
            ways = before.copy()
            ways[1:] = np.logaddexp(ways[1:], before[:-1])
            ways[2:] = np.where(skips[2:], np.logaddexp(ways[2:], before[:-2]), ways[2:])
            reached[t] = ways + logs[t]
        return reached


@layer("CTCGreedyDecoder")
class CTCGreedyDecoder(Layer):
    """Each step's best class, repetitions merged unless told, blanks taken out; -1 behind the end.

    With labels: 1 - the mean edit distance over the longer one's length, and the share of streams without a fault.
    It has no gradient, and does not complain.
    """

    def run(self, scores: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        param = self.param.ctc_decoder_param
        steps, streams = scores.shape[:2]
        blank = param.blank_index if param.blank_index >= 0 else scores.shape[2] - 1
        best = scores.reshape(steps, streams, -1).argmax(axis=2).T
        keep = best != blank
        if param.ctc_merge_repeated:
            keep[:, 1:] &= best[:, 1:] != best[:, :-1]
        read = [row[kept].tolist() for row, kept in zip(best, keep, strict=True)]
        if labels is None:
            top = np.full((streams, steps, 1, 1), -1, self.dtype)
            for row, found in zip(top, read, strict=True):
                row[: len(found), 0, 0] = found
            return top
        faults, right = 0.0, 0
        for found, row in zip(read, labels.reshape(streams, -1), strict=True):
            ended = np.append(row < 0, True).argmax()
            wanted = [int(label) for label in (row[:ended] + 0.5) if int(label) != blank]
            if found or wanted:
                distance = edit_distance(wanted, found)
                faults += distance / max(len(wanted), len(found))
                right += distance == 0
        return np.array([1 - faults / streams, right / streams], self.dtype).reshape(1, 2, 1, 1)

    def grad(self, bottoms: Arrays, tops: Arrays, top_diffs: Arrays) -> None:
        return None
