"""Why attention_maps feeds contiguous images: python -m parity_tests.bench_layout

SeeNet's trunk and S_A at 256², both memory layouts in turn, medians of five: time, and the largest difference of
score_b1 from a float64 computation over its largest magnitude.
"""

import statistics
import time

import torch
from rich.console import Console
from rich.table import Table

import port
from parity_tests.recordings import seenet_weights

LAYOUTS = {"contiguous (NCHW)": torch.contiguous_format, "channels-last (NHWC)": torch.channels_last}


def main() -> None:
    model = port.SeeNet(background=False).eval()
    model.copy_weights(seenet_weights(model, 20181023))
    data = 60 * torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        truth = model.double().branch_a(model.trunk(data.double()))
        model.float()
        seconds: dict[str, list[float]] = {name: [] for name in LAYOUTS}
        errors = {}
        for turn in range(6):
            for name, layout in LAYOUTS.items():
                model.to(memory_format=layout)
                images = data.to(memory_format=layout)
                start = time.perf_counter()
                scores = model.branch_a(model.trunk(images))
                if turn:  # the first is for warming up
                    seconds[name].append(time.perf_counter() - start)
                errors[name] = float((scores - truth).abs().max() / truth.abs().max())
    table = Table("layout", "seconds", "times the first", "error of score_b1")
    first = statistics.median(next(iter(seconds.values())))
    for name in LAYOUTS:
        median = statistics.median(seconds[name])
        table.add_row(name, f"{median:.3f}", f"{median / first:.2f}", f"{errors[name]:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
