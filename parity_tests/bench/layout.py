"""Why attention_maps feeds contiguous images: python -m parity_tests.bench.layout

SeeNet's trunk and S_A at 256², both memory layouts and the Winograd engine in turn, medians of five: time, and the
largest difference of score_b1 from a float64 computation over its largest magnitude.
"""

import copy
from functools import partial

import torch
from rich.table import Table
from torch import Tensor

import port
from parity_tests.bench.timing import side_by_side
from parity_tests.recordings import seenet_weights
from port.models.fast import with_engine
from weights.progress import plain_console


def main() -> None:
    model = port.SeeNet(background=False).eval()
    model.copy_weights(seenet_weights(model, 20181023))
    data = 60 * torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    last = torch.channels_last
    actions = {
        "contiguous (NCHW)": partial(scores, model, data),
        "channels-last (NHWC)": partial(
            scores, copy.deepcopy(model).to(memory_format=last), data.to(memory_format=last)
        ),
        "engine winograd": partial(scores, with_engine(model, "winograd"), data),
    }
    truth = scores(copy.deepcopy(model).double(), data.double())
    timings = side_by_side(actions, rounds=5)
    table = Table("layout", "seconds", "times the first", "error of score_b1")
    first = next(iter(timings.values()))
    for name, timing in timings.items():
        error = float((actions[name]() - truth).abs().max() / truth.abs().max())
        table.add_row(name, f"{timing.median:.3f}", f"{timing.ratio(first):.2f}", f"{error:.1e}")
    plain_console().print(table)


@torch.inference_mode()
def scores(model: port.SeeNet, data: Tensor) -> Tensor:
    return model.branch_a(model.trunk(data))


if __name__ == "__main__":
    main()
