"""What a GPU computes, and how fast, in one run of at most eight minutes: python -m parity_tests.bench.gpu

Each part prints as it goes, and FILE is written after each, so that a run which is cut off still says something:

    recordings  every open recording by the tests' own tolerances, float32 with TF32 off; C-ReLU positions; training
    attention   10,582 images of 500×375, 1.5 labels each, JPEG in and PNG out: rate, and how long the GPU is idle
    training    an iteration of batch 16 at 224², projected to 25,000; TF32 and bfloat16, with their distance
    deeplab     DeepLab-LargeFOV at 513²: images a second, contiguous and channels-last, with CUDA graphs
    algorithms  cuDNN's kernels chosen by its rules, by trial, or only deterministic ones: time, error, repeatability
    memory      the most memory that each of these takes, and the largest batch of SeeNet up to 256 that fits
"""

import contextlib
import copy
import io
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer

import port.pycaffe
from parity_tests.bench.engines import make_files
from parity_tests.bench.timing import timed
from parity_tests.bench.training import SgdIteration, make_solver
from port.attention import files as attention
from port.attention.maps import label_scores
from port.attention.settings import AttentionSettings
from port.devices import batch_that_fits, check_device
from port.models.deeplab import DeepLabLargeFOV
from port.models.seenet import SeeNet
from port.training.command import train_command
from port.training.loop import Solver
from prototxt.errors import InputError, need_packages
from runtime.rng import set_random_seed
from weights.files import write_json

PARTS = ("recordings", "attention", "training", "deeplab", "algorithms", "memory")
IMAGES, LABELS_EACH, ITERATIONS = 10_582, 1.5, 25_000


@dataclass
class Run:
    """How the parts are to run, and what they found.

    Attributes:
        small: a few images, narrow nets: only to see that everything runs.
        until: `time.monotonic()` by which all must be done.
    """

    device: str
    small: bool
    until: float
    folder: Path
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def tell(self, line: str) -> None:
        print(line, flush=True)


def main(
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    small: Annotated[bool, typer.Option("--small", help="Little of everything, narrow nets.")] = False,
    only: Annotated[str, typer.Option(help=f"Of {', '.join(PARTS)}, commas between.")] = "",
    skip: Annotated[str, typer.Option(help="Parts to leave out, commas between.")] = "",
    seconds: Annotated[
        float, typer.Option(min=1, help="No part begins, or goes on for long, after these.")
    ] = 460,
    json_file: Annotated[Path, typer.Option("--json", help="Every figure.", metavar="FILE")] = Path(
        "gpu.json"
    ),
) -> None:
    """See what the GPU here computes, and how fast."""
    named = [name for text in (only, skip) for name in text.split(",") if name]
    unknown = [name for name in named if name not in PARTS]
    if unknown:
        raise InputError(f'part "{unknown[0]}": the parts are {", ".join(PARTS)}')
    check_device(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="seenet_gpu_") as folder:
        run = Run(device, small, start + seconds, Path(folder))
        run.found["where"] = _where(device)
        run.tell(f"{run.found['where']['device']}, PyTorch {torch.__version__}")
        for name in PARTS:
            if name in skip.split(",") or (only and name not in only.split(",")):
                continue
            if run.left <= 0:
                run.found[name] = "not begun: the time was over"
                run.tell(f"{name}: {run.found[name]}")
                continue
            _measure(run, name)
            write_json(json_file, run.found)
    run.tell(f"{time.monotonic() - start:.0f} s; every figure is in {json_file}")


def _measure(run: Run, name: str) -> None:
    """One part; what goes wrong in it is told, and the others go on."""
    run.tell(f"== {name}")
    began = time.monotonic()
    if run.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    figures: dict[str, Any] = run.found.setdefault(name, {})
    try:
        MEASURE[name](run, figures)
    except Exception as error:  # the other parts are to run
        figures["failed"] = f"{type(error).__name__}: {error}".splitlines()[0]
        run.tell(f"failed: {figures['failed']}")
    if run.device == "cuda":
        figures["peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6)
    figures["seconds"] = round(time.monotonic() - began, 1)
    told = f", at most {figures['peak_mb']} MB on the device" if "peak_mb" in figures else ""
    run.tell(f"{name}: {figures['seconds']} s{told}")


def _where(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if device == "cuda" else None,
        "cores": os.cpu_count(),
    }


# ---- recordings


def measure_recordings(run: Run, figures: dict[str, Any]) -> None:
    """All of them, the failures listed."""
    need_packages("pytest", purpose="the recordings' tests")
    port.pycaffe.set_mode_gpu() if run.device == "cuda" else port.pycaffe.set_mode_cpu()
    passed, failures, left_out = 0, {}, 0
    for name, check in _checks(run):
        if run.left < 30:
            left_out += 1
            continue
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                check()
            passed += 1
        except Exception as error:  # whatever a device does to it
            failures[name] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            run.tell(f"  {name}: {failures[name]}")
    figures |= {"passed": passed, "failures": failures, "left_out": left_out}
    figures["crelu"] = _crelu_positions()
    run.tell(f"{passed} passed, {len(failures)} failed, {left_out} left out for want of time")
    run.tell("C-ReLU positions that differ: {flipped} of {positions}".format(**figures["crelu"]))
    port.pycaffe.set_mode_cpu()


def _checks(run: Run) -> Iterator[tuple[str, Callable[[], None]]]:
    """The recordings' tests, by name, the short ones first."""
    from parity_tests import (
        test_fork_layers,
        test_layers,
        test_seenet_train,
        test_solvers,
    )

    caffe, few = port.pycaffe, 3 if run.small else None
    on_cpu = test_solvers.solver_of
    test_solvers.solver_of = partial(on_cpu, device=run.device)
    for suite in test_layers.SUITES:
        for case in test_layers.recorded(suite)[0][:few]:
            yield (
                f"{suite}/{case['name']}",
                partial(test_layers.test_layer_equals_recording, "port", suite, case),
            )
    for suite, check in (
        ("fork_layers", test_fork_layers.test_fork_layer_equals_recording),
        ("fork_nets", test_fork_layers.test_fork_net_equals_recording),
    ):
        for case in test_layers.recorded(suite)[0][:few]:
            yield f"{suite}/{case['name']}", partial(check, "port", case)
    for case in test_seenet_train.CASES[:few]:
        yield (
            f"seenet_train/{case['name']}",
            partial(test_seenet_train.test_first_pass_and_gradients, caffe, case),
        )
    for parameters in test_solvers.CASES[:few]:
        check = partial(test_solvers.test_every_kept_iteration, *parameters.values)
        yield f"solver/{parameters.id}", check
    for case in () if run.small else test_solvers.SEENET_CASES:
        yield f"training/{case['name']}", partial(test_solvers.test_seenet_training, case)
    test_solvers.solver_of = on_cpu
    if run.small:
        return
    for name, check in _deploy_checks(run.device):
        yield f"seenet_deploy/{name}", check
    for name in ("train_run", "seg_train_run"):
        yield name, partial(_whole_run, run, name)


def _deploy_checks(device: str) -> Iterator[tuple[str, Callable[[], None]]]:
    from parity_tests import test_seenet_deploy as tests

    net = port.pycaffe.Net(str(tests.NETS / "seenet" / "deploy.prototxt"), port.pycaffe.TEST)
    tests.fill_he_uniform(net, tests.SEED)
    model = SeeNet(background=False)
    model.copy_weights(tests.seenet_weights(model, tests.SEED))
    model = model.eval().to(device)
    for case in tests.ABOUT["blob_cases"]:
        yield case["name"], partial(tests.test_every_blob, net, case)
    for case in tests.ABOUT["notebook_cases"]:
        yield f"{case['name']} as published", partial(tests.test_published_procedure, net, case)
        yield f"{case['name']} maps", partial(tests.test_attention_maps, model, case)


def _whole_run(run: Run, name: str) -> None:
    """Caffe's training run from the command, to its last iteration."""
    from parity_tests import test_training as tests

    golden, folder = tests.GOLDEN / name, run.folder / name
    shutil.copytree(golden, folder, ignore=shutil.ignore_patterns("snap_*", "resumed_*", "*.log"))
    before = os.getcwd()
    os.chdir(folder)
    try:
        train_command("solver.prototxt", device=run.device)
        for path in golden.glob("snap_*.caffemodel"):
            tests.compare_weights(path.name, path)
    finally:
        os.chdir(before)


def _crelu_positions() -> dict[str, int]:
    """Decisions of SeeNet's C-ReLU on the recorded images: how many, and how many are others than Caffe's."""
    from parity_tests import test_seenet_deploy as tests

    net = port.pycaffe.Net(str(tests.NETS / "seenet" / "deploy.prototxt"), port.pycaffe.TEST)
    tests.fill_he_uniform(net, tests.SEED)
    positions = flipped = 0
    for case in tests.ABOUT["blob_cases"]:
        full = tests.ARRAYS.get(f"{case['name']}/full/mask_b2")
        if full is None:
            continue
        tests.feed(net, tests.ARRAYS[f"{case['name']}/image"], case["labels"])
        net.forward()
        positions += full.size
        flipped += int((np.sign(net.blobs["mask_b2"].data) != np.sign(full)).sum())
    return {"positions": positions, "flipped": flipped}


# ---- attention


def measure_attention(run: Run, figures: dict[str, Any]) -> None:
    """The published job on generated photographs, with the batch that was fastest on some of them."""
    files = make_files(run.folder, run.device, torch.get_num_threads(), run.small)
    voc = run.folder / "voc"
    few, total = (4, 6) if run.small else (512, IMAGES)
    _make_photographs(voc, total, distinct=4 if run.small else 256)
    size = 64 if run.small else 256
    settings = AttentionSettings(weights=files.weights, device=run.device, test_size=size)
    workers = max(1, (os.cpu_count() or 1) - 1)
    tried = {}
    for batch in (2, 4) if run.small else (8, 16, 32, 64):
        tried[batch] = _attend(run, voc, settings, few, batch, workers)["images_a_second"]
        run.tell(
            f"  batch {batch}, {workers} threads to read and as many to write: {tried[batch]:.1f} images/s"
        )
    best = max(tried, key=lambda batch: tried[batch])
    affordable = total if run.small else min(total, int(tried[best] * max(run.left - 150, 20)))
    figures |= {"by_batch": tried, "batch": best, **_attend(run, voc, settings, affordable, best, workers)}
    figures["projected_seconds"] = round(IMAGES / figures["images_a_second"], 1)
    run.tell(
        f"{affordable} images: {figures['images_a_second']:.1f} a second, {IMAGES} in "
        f"{figures['projected_seconds']} s; the network is idle for {figures['idle']:.0%}"
    )


def _attend(
    run: Run, voc: Path, settings: AttentionSettings, count: int, batch: int, workers: int
) -> dict[str, Any]:
    lines = (voc / "list.txt").read_text().splitlines()[:count]
    part, out = voc / "part.txt", run.folder / "maps"
    part.write_text("\n".join(lines) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    busy: list[float] = []
    network = attention._scores

    def noted(*given: Any) -> list[np.ndarray]:
        start = time.perf_counter()
        scores = network(*given)  # which ends with copies to the CPU
        busy.append(time.perf_counter() - start)
        return scores

    attention._scores = noted
    try:
        start = time.perf_counter()
        done = attention.attend_to_dataset(voc, part, out, settings, batch=batch, workers=workers)
        taken = time.perf_counter() - start
    finally:
        attention._scores = network
    if done.failed:
        raise done.failed[0]
    return {"images": count, "images_a_second": count / taken, "idle": 1 - sum(busy) / taken}


def _make_photographs(voc: Path, count: int, distinct: int) -> None:
    """`count` JPEGs of 500×375, each of `distinct` ones under many names, and a list with labels."""
    (voc / "JPEGImages").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for i in range(count):
        path = voc / "JPEGImages" / f"{i:06}.jpg"
        if i < distinct:
            coarse = draw.integers(0, 256, (24, 32, 3), np.uint8)
            noise = draw.normal(0, 8, (375, 500, 3))
            photo = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC) + noise
            cv2.imwrite(str(path), np.clip(photo, 0, 255).astype(np.uint8))
        else:
            path.symlink_to(f"{i % distinct:06}.jpg")
    labels = [draw.choice(20, 1 + (i % 2), replace=False) for i in range(count)]
    text = "".join(f"{i:06} {' '.join(map(str, own))}\n" for i, own in enumerate(labels))
    (voc / "list.txt").write_text(text)


# ---- training


def measure_training(run: Run, figures: dict[str, Any]) -> None:
    """An iteration in float32, and what TF32 and bfloat16 do to its time and to the weights."""
    batch, size, steps = (2, 48, 2) if run.small else (16, 224, 12)
    first: list[torch.Tensor] = []
    for mode in ("float32", "tf32", "bfloat16"):
        if run.left < 30:
            break
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode == "tf32"
        torch.manual_seed(0)
        folder = run.folder / mode
        folder.mkdir()
        solver = make_solver(folder, batch, run.device, size, run.small, amp=mode == "bfloat16")
        before = [weight.detach().clone() for weight in solver.net.net.parameters()]
        solver.step(2)
        weights = [weight.detach().clone() for weight in solver.net.net.parameters()]
        if not first:
            first = weights
        moved = sum(float((new - old).square().sum()) for new, old in zip(first, before, strict=True)) ** 0.5
        apart = sum(float((new - old).square().sum()) for new, old in zip(weights, first, strict=True)) ** 0.5
        each = timed(partial(solver.step, steps), run.device) / steps
        figures[mode] = {
            "seconds": each,
            "projected_minutes": round(each * ITERATIONS / 60, 1),
            "distance_of_what_two_iterations_move": apart / moved if moved else 0.0,
        }
        run.tell(
            f"  {mode}: {each:.4f} s an iteration of {batch} at {size}²: {ITERATIONS} in "
            f"{figures[mode]['projected_minutes']} min; {apart / moved if moved else 0:.1e} of two iterations' way "
            "from float32's"
        )
        del solver
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


# ---- DeepLab


def measure_deeplab(run: Run, figures: dict[str, Any]) -> None:
    """Images a second of the net alone."""
    size, turns = (65, 1) if run.small else (513, 5)
    torch.manual_seed(0)
    model = DeepLabLargeFOV().eval().to(run.device)
    for batch in (1,) if run.small else (1, 4, 16):
        for layout in (torch.contiguous_format, torch.channels_last):
            data = torch.randn(batch, 3, size, size, device=run.device).to(memory_format=layout)
            net = model.to(memory_format=layout)
            runs = {"eager": partial(net, data)}
            with torch.inference_mode():
                net(data)
                if run.device == "cuda":
                    runs["CUDA graph"] = _graph(net, data)
                for how, forward in runs.items():
                    forward()
                    each = min(timed(forward, run.device) for _ in range(turns)) / batch
                    name = f"batch {batch}, {str(layout).removeprefix('torch.')}, {how}"
                    figures[name] = 1 / each
                    run.tell(f"  {name}: {1 / each:.1f} images of {size}² a second")


def _graph(net: torch.nn.Module, data: torch.Tensor) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net(data)
    return graph.replay


# ---- algorithms

CHOICES = {
    "by rules": {"benchmark": False, "deterministic": False},
    "by trial": {"benchmark": True, "deterministic": False},
    "deterministic": {"benchmark": False, "deterministic": True},
}
"""How cuDNN chooses a convolution's kernel: its name here, and the flags of `torch.backends.cudnn`."""


def measure_algorithms(run: Run, figures: dict[str, Any]) -> None:
    """Attention's network and a training iteration with each choice."""
    batch, size = (2, 32) if run.small else (32, 256)
    model = SeeNet.from_caffemodel(make_files(run.folder, run.device, 1, run.small).weights).to(run.device)
    draw = np.random.default_rng(0)
    views = [draw.normal(0, 60, (2, 3, size, size)).astype(np.float32) for _ in range(batch)]
    labels = [[3, 8][: 1 + i % 2] for i in range(batch)]
    exact = label_scores(copy.deepcopy(model).double(), views[:4], labels[:4], "accumulate")
    largest = max(float(np.abs(score).max()) for score in exact)
    for name, flags in CHOICES.items():
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False, **flags):
            attend = partial(label_scores, model, views, labels, "accumulate")
            scores = attend()
            error = max(
                float(np.abs(mine - right).max()) for mine, right in zip(scores[:4], exact, strict=True)
            )
            each = min(timed(attend, run.device) for _ in range(1 if run.small else 5)) / batch
            training, weights = _some_iterations(run, f"{name} 1")
            again = _some_iterations(run, f"{name} 2")[1]
        repeats = all(map(torch.equal, weights, again))
        figures[name] = {
            "network_images_a_second": 1 / each,
            "error": error / largest,
            "training_seconds": training,
            "training_repeats": repeats,
        }
        run.tell(
            f"  {name}: SeeNet {1 / each:.1f} images/s, {error / largest:.1e} of the largest score from float64; "
            f"{training:.4f} s a training iteration, {'the same' if repeats else 'other'} bits the second time"
        )
    direct = SgdIteration(_solver(run, "direct"), *((2, 48) if run.small else (16, 224)))
    direct()
    figures["direct_seconds"] = min(timed(direct, run.device) for _ in range(1 if run.small else 5))
    run.tell(f"  the same iteration written in plain PyTorch, by rules: {figures['direct_seconds']:.4f} s")


def _solver(run: Run, name: str) -> Solver:
    torch.manual_seed(0)
    set_random_seed(1)
    folder = run.folder / name
    folder.mkdir()
    batch, size = (2, 48) if run.small else (16, 224)
    return make_solver(folder, batch, run.device, size, run.small)


def _some_iterations(run: Run, name: str) -> tuple[float, list[torch.Tensor]]:
    """Seconds of an iteration, and the weights after a few."""
    solver, steps = _solver(run, name), 1 if run.small else 6
    solver.step(2)
    each = timed(partial(solver.step, steps), run.device) / steps
    return each, [weight.detach().clone() for weight in solver.net.net.parameters()]


# ---- memory


def measure_memory(run: Run, figures: dict[str, Any]) -> None:
    """What the parts took at most; and how many images SeeNet takes at once."""
    figures["by_part"] = {
        name: part["peak_mb"]
        for name, part in run.found.items()
        if isinstance(part, dict) and "peak_mb" in part
    }
    model = SeeNet(background=False).eval().to(run.device)
    size, most = (
        (32, 4) if run.small else (256, 256)
    )  # 512 have 2³¹ values in a map: cuDNN then takes minutes

    def forward(count: int) -> None:
        with torch.inference_mode():
            model(
                torch.zeros(count, 3, size, size, device=run.device),
                torch.zeros(count, 20, device=run.device),
            )

    figures["largest_batch"] = batch_that_fits(most, forward)
    run.tell(f"SeeNet at {size}²: {figures['largest_batch']} of {most} images fit at once")


MEASURE: dict[str, Callable[[Run, dict[str, Any]], None]] = {
    "recordings": measure_recordings,
    "attention": measure_attention,
    "training": measure_training,
    "deeplab": measure_deeplab,
    "algorithms": measure_algorithms,
    "memory": measure_memory,
}

if __name__ == "__main__":
    from port.last_resort import run_command, run_typer

    app = typer.Typer(add_completion=False)
    app.command()(main)
    run_command(lambda: run_typer(app))
