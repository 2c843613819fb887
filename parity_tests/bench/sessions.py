"""Why the Winograd engine is our own code: python -m parity_tests.bench.sessions [--beside] [--threads N]

The published job for one, two and four labels by the engine and by two ONNX Runtime sessions, the trunk and the
branches, under the same `attention_maps`, in turn. `--beside`: with matrix products on all cores in another process.
"""

import argparse
import contextlib
import copy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from parity_tests.bench.engines import make_files, ort_session, use_threads
from parity_tests.bench.parts import LABELS, photograph
from parity_tests.bench.timing import side_by_side
from port.attention.maps import attention_maps, prepared_views
from port.models.fast import with_engine
from port.models.seenet import SeeNet
from weights.progress import plain_console

BUSY = "import torch\na = torch.randn(1024, 1024)\nwhile True:\n    a @ a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    use_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = make_files(Path(folder), "cpu", options.threads).model()
        models = {
            "port": model,
            "winograd": with_engine(model, "winograd"),
            "two sessions": SessionSeeNet(model, Path(folder), options.threads),
        }
    table = Table(
        "labels", "engine", "median s", "× winograd", "CPU s", "× winograd", "from float64, of the port's"
    )
    errors = _errors(model, models)
    with _busy() if options.beside else contextlib.nullcontext():
        for count in (1, 2, 4):
            jobs = {
                name: partial(attention_maps, net, photograph(), LABELS[:count])
                for name, net in models.items()
            }
            timings = side_by_side(jobs, options.rounds)
            ours = timings["winograd"]
            for name, timing in timings.items():
                cpu = median(mine / theirs for mine, theirs in zip(timing.cpu, ours.cpu, strict=True))
                cells = [
                    f"{timing.median:.3f}",
                    f"{timing.ratio(ours):.2f}",
                    f"{median(timing.cpu):.3f}",
                    f"{cpu:.2f}",
                ]
                table.add_row(str(count), name, *cells, f"{errors[name] / errors['port']:.2f}")
            table.add_section()
    plain_console().print(table)


class SessionSeeNet(SeeNet):
    """SeeNet whose trunk is one ONNX Runtime session, and each branch's convolutions one of another file."""

    def __init__(self, model: SeeNet, folder: Path, threads: int):
        nn.Module.__init__(self)
        vars(self).update(vars(model))
        model = copy.deepcopy(model).requires_grad_(False)
        features = torch.zeros(2, 512, 16, 16)
        self._sessions = {
            name: _session(_Part(run), example, folder / f"{name}.onnx", threads)
            for name, run, example in (
                ("trunk", model.trunk, torch.zeros(2, 3, 256, 256)),
                ("b1", lambda x: model.scores_of("b1", x), features),
                ("b2", lambda x: model.scores_of("b2", x), features),
            )
        }

    def _run(self, name: str, x: Tensor) -> Tensor:
        return torch.from_numpy(self._sessions[name].run(None, {"x": x.contiguous().numpy()})[0])

    def trunk(self, data: Tensor) -> Tensor:
        return self._run("trunk", data)

    def branch_a(self, features: Tensor) -> Tensor:
        return self._run("b1", features)

    def scores_of(self, branch: str, masked: Tensor) -> Tensor:
        return self._run(branch, masked)


class _Part(nn.Module):
    def __init__(self, run: Any):
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def _session(part: nn.Module, example: Tensor, path: Path, threads: int) -> Any:
    with torch.no_grad():
        torch.onnx.export(
            part, (example,), path, dynamo=False, input_names=["x"], dynamic_axes={"x": [0, 2, 3]}
        )
    return ort_session(path, "cpu", threads)


def _errors(model: SeeNet, models: dict[str, SeeNet]) -> dict[str, float]:
    """The largest difference of score_b1 from float64."""
    data = torch.from_numpy(prepared_views(photograph(), 256, flip=True))
    label = torch.zeros(2, model.num_classes)
    label[:, LABELS[0]] = 1
    truth = SeeNet(background=False)
    truth.load_state_dict(model.state_dict(), strict=False)
    with torch.inference_mode():
        true = truth.eval().double()(data.double(), label.double())[0]
        return {name: float((net(data, label)[0] - true).abs().max()) for name, net in models.items()}


@contextlib.contextmanager
def _busy() -> Iterator[None]:
    other = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        other.kill()
        other.wait()


if __name__ == "__main__":
    main()
