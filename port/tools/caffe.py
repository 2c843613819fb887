"""caffe train | test | time | device_query, as tools/caffe.cpp does them."""

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from port.own_options import load_own
from port.tools.gflags import Flag, Program, Value
from port.tools.process import NOT_CAFFES, CheckFailed
from port.tools.progress import log_above_bar
from port.training.caffe_log import CaffeLog, log_net, number
from port.training.upgrade_log import log_net_upgrades, log_solver_upgrade
from prototxt.caffe_pb2 import TEST, TRAIN, NetParameter, SolverParameter
from prototxt.errors import InputError
from prototxt.read import read_net, read_net_as_it_is, read_solver, read_solver_as_it_is
from runtime.data.database import log as database_log

if TYPE_CHECKING:  # PyTorch takes seconds to load, which `caffe` without a command need not wait for
    import torch


PROGRAM = Program(
    "caffe",
    "tools/caffe.cpp",
    "command line brew\n"
    "usage: caffe <command> <args>\n\n"
    "commands:\n"
    "  train           train or finetune a model\n"
    "  test            score a model\n"
    "  device_query    show GPU diagnostic information\n"
    "  time            benchmark model execution time",
    (
        Flag(
            "gpu",
            "",
            "Optional; run in GPU mode on given device IDs separated by ','.Use '-gpu all' to run on all "
            "available GPUs. The effective training batch size is multiplied by the number of devices.",
        ),
        Flag("solver", "", "The solver definition protocol buffer text file."),
        Flag("model", "", "The model definition protocol buffer text file."),
        Flag("phase", "", "Optional; network phase (TRAIN or TEST). Only used for 'time'."),
        Flag("level", 0, "Optional; network level."),
        Flag("stage", "", "Optional; network stages (not to be confused with phase), separated by ','."),
        Flag("snapshot", "", "Optional; the snapshot solver state to resume training."),
        Flag(
            "weights",
            "",
            "Optional; the pretrained weights to initialize finetuning, separated by ','. Cannot be set "
            "simultaneously with snapshot.",
        ),
        Flag("iterations", 50, "The number of iterations to run."),
        Flag(
            "sigint_effect",
            "stop",
            "Optional; action to take when a SIGINT signal is received: snapshot, stop or none.",
        ),
        Flag(
            "sighup_effect",
            "snapshot",
            "Optional; action to take when a SIGHUP signal is received: snapshot, stop or none.",
        ),
    ),
)

ALLOW_MODULES, PROTO = "SEENET_ALLOW_MODULES", "SEENET_PROTO"
"""Environment variable: Python modules, with commas between, that nets may load. Caffe loads any."""

Flags = dict[str, Value]


def main(arguments: Sequence[str]) -> int:
    flags, rest = PROGRAM.parse(arguments)
    if len(rest) != 1:
        print(PROGRAM.usage(), end="")
        return 0
    log = CaffeLog()
    commands = {"device_query": device_query, "test": test, "time": time_layers, "train": train}
    if rest[0] not in commands:
        log("caffe.cpp:78", "Available caffe actions:", "E")
        for name in commands:
            log("caffe.cpp:81", f"\t{name}", "E")
        raise CheckFailed("caffe.cpp:83", f"Unknown action: {rest[0]}")
    database_log.setLevel(logging.INFO)
    database_log.addHandler(_DatabaseLines(log))
    commands[rest[0]](flags, log)
    return 0


class _DatabaseLines(logging.Handler):
    """Puts what a database's reader says into Caffe's log."""

    def __init__(self, log: CaffeLog):
        super().__init__()
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        self.log("data_layer.cpp:73", record.getMessage())


def device_query(flags: Flags, log: CaffeLog) -> None:
    """What CUDA tells of the devices named by -gpu."""
    log("caffe.cpp:138", f"Querying GPUs {flags['gpu']}")
    if not flags["gpu"]:
        return
    import torch

    for gpu in _gpus(flags["gpu"]):
        if gpu >= torch.cuda.device_count():
            raise InputError(f"-gpu {gpu}: this machine has {torch.cuda.device_count()} CUDA devices")
        found = torch.cuda.get_device_properties(gpu)
        for line in (
            f"Device id:                     {gpu}",
            f"Major revision number:         {found.major}",
            f"Minor revision number:         {found.minor}",
            f"Name:                          {found.name}",
            f"Total global memory:           {found.total_memory}",
            f"Total shared memory per block: {found.shared_memory_per_block}",
            f"Warp size:                     {found.warp_size}",
            f"Number of multiprocessors:     {found.multi_processor_count}",
        ):
            log("common.cpp:180", line)


# ---- train


def train(flags: Flags, log: CaffeLog) -> None:
    if not flags["solver"]:
        told = "Check failed: FLAGS_solver.size() > 0 (0 vs. 0) Need a solver definition to train."
        raise CheckFailed("caffe.cpp:167", told)
    if flags["snapshot"] and flags["weights"]:
        told = "Check failed: !FLAGS_snapshot.size() || !FLAGS_weights.size() "
        told += "Give a snapshot to resume training or weights to finetune but not both."
        raise CheckFailed("caffe.cpp:168", told)
    solver = read_solver_as_it_is(flags["solver"])
    log_solver_upgrade(log, solver, flags["solver"])
    _log_prefix(log, solver, flags["solver"])
    for flag in ("sigint_effect", "sighup_effect"):
        if flags[flag] not in ("stop", "snapshot", "none"):
            raise CheckFailed("caffe.cpp:162", f'Invalid signal effect "{flags[flag]}" was specified')
    if len(_gpus(flags["gpu"])) > 1:
        raise InputError(
            f"-gpu {flags['gpu']}: one process trains on one GPU: start as many with "
            "torchrun --nproc_per_node=N port/train_caffe_equiv.py --solver=…"
        )
    from port.training.command import train_command

    gpu = flags["gpu"]
    if not gpu and solver.HasField("solver_mode") and solver.solver_mode == SolverParameter.GPU:
        gpu = str(solver.device_id)
    train_command(
        solver=flags["solver"],
        weights=flags["weights"],
        snapshot=flags["snapshot"],
        device=chosen_device(gpu, log).type,
        sigint_effect=flags["sigint_effect"],
        sighup_effect=flags["sighup_effect"],
        level=flags["level"],
        stage=flags["stage"],
        allow_module=allowed_modules(),
    )


def _log_prefix(log: CaffeLog, solver: SolverParameter, path: str) -> None:
    """Say what the snapshots' prefix becomes where it is not given, or is a folder."""
    prefix = read_solver(path).snapshot_prefix
    if not solver.HasField("snapshot_prefix"):
        log("upgrade_proto.cpp:1108", f"snapshot_prefix was not specified and is set to {prefix}")
    elif prefix != solver.snapshot_prefix:
        log("upgrade_proto.cpp:1113", f"snapshot_prefix was a directory and is replaced to {prefix}")


# ---- test


def test(flags: Flags, log: CaffeLog) -> None:
    """Score a net: its outputs over -iterations batches, and their means."""
    if not flags["model"]:
        told = "Check failed: FLAGS_model.size() > 0 (0 vs. 0) Need a model definition to score."
        raise CheckFailed("caffe.cpp:258", told)
    if not flags["weights"]:
        told = "Check failed: FLAGS_weights.size() > 0 (0 vs. 0) Need model weights to score."
        raise CheckFailed("caffe.cpp:259", told)
    from port.training.net import TrainingNet

    device = _logged_device(flags["gpu"], log, "caffe.cpp:266", "caffe.cpp:275")
    if device.type == "cuda":
        import torch

        log("caffe.cpp:270", f"GPU device name: {torch.cuda.get_device_name(device)}")
    iterations = _iterations(flags)
    _log_upgrades(log, flags["model"])
    stages = flags["stage"].split(",")
    net = TrainingNet(
        flags["model"],
        TEST,
        flags["level"],
        stages,
        log=log,
        allow_modules=allowed_modules(),
        device=device,
    )
    net.log_layers(_message(flags, TEST))
    net.copy_from(flags["weights"])
    log("caffe.cpp:281", f"Running for {iterations} iterations.")
    loss = np.float32(0)
    sums: list[np.ndarray] = []
    with log_above_bar(log, iterations, "batches") as step:
        for batch in range(iterations):
            loss += net.forward()
            outputs = net.outputs()
            for output in outputs:
                for value in output.values:
                    log("caffe.cpp:304", f"Batch {batch}, {output.name} = {number(value)}")
            values = [output.values.astype(np.float32) for output in outputs]
            sums = [total + value for total, value in zip(sums, values, strict=True)] if sums else values
            step()
    log("caffe.cpp:309", f"Loss: {number(loss / np.float32(iterations))}")
    for output, total in zip(outputs, sums, strict=True):
        for mean in total / np.float32(iterations):
            line = f"{output.name} = {number(mean)}"
            if output.loss_weight:
                weight = np.float32(output.loss_weight)
                line += f" (* {number(weight)} = {number(weight * mean)} loss)"
            log("caffe.cpp:321", line)


# ---- time


def time_layers(flags: Flags, log: CaffeLog) -> None:
    """Time each layer forwards and backwards, averaged over -iterations."""
    if not flags["model"]:
        told = "Check failed: FLAGS_model.size() > 0 (0 vs. 0) Need a model definition to time."
        raise CheckFailed("caffe.cpp:331", told)
    if flags["phase"] not in ("", "TRAIN", "TEST"):
        raise CheckFailed("caffe.cpp:119", 'phase must be "TRAIN" or "TEST"')
    phase = TEST if flags["phase"] == "TEST" else TRAIN
    from port.net import CaffeNet
    from port.tools.layer_passes import LayerPasses

    device = _logged_device(flags["gpu"], log, "caffe.cpp:339", "caffe.cpp:343")
    iterations = _iterations(flags)
    _log_upgrades(log, flags["model"])
    net = CaffeNet(flags["model"], phase, flags["level"], flags["stage"].split(","), allowed_modules())
    log_net(log, net.plan, _message(flags, phase))
    passes = LayerPasses(net.to(device), device)
    log("caffe.cpp:351", "Performing Forward")
    loss = passes.forward()
    log("caffe.cpp:356", f"Initial loss: {number(loss)}")
    log("caffe.cpp:357", "Performing Backward")
    passes.backward()
    passes.clear_times()
    log("caffe.cpp:365", "*** Benchmark begins ***")
    log("caffe.cpp:366", f"Testing for {iterations} iterations.")
    began = time.perf_counter()
    forward = backward = 0.0
    with log_above_bar(log, iterations, "iterations") as step:
        for iteration in range(iterations):
            start = time.perf_counter()
            passes.forward()
            middle = time.perf_counter()
            passes.backward()
            end = time.perf_counter()
            forward, backward = forward + middle - start, backward + end - middle
            spent = number((end - start) * 1e3)
            log("caffe.cpp:394", f"Iteration: {iteration + 1} forward-backward time: {spent} ms.")
            step()
    total = time.perf_counter() - began
    log("caffe.cpp:397", "Average time per layer: ")
    for layer, ahead, back in zip(net.plan.layers, *passes.times, strict=True):
        log("caffe.cpp:400", f"{layer.name:>10}\tforward: {number(ahead / iterations * 1e3)} ms.")
        log("caffe.cpp:403", f"{layer.name:>10}\tbackward: {number(back / iterations * 1e3)} ms.")
    log("caffe.cpp:408", f"Average Forward pass: {number(forward / iterations * 1e3)} ms.")
    log("caffe.cpp:410", f"Average Backward pass: {number(backward / iterations * 1e3)} ms.")
    log("caffe.cpp:412", f"Average Forward-Backward: {number(total / iterations * 1e3)} ms.")
    log("caffe.cpp:414", f"Total Time: {number(total * 1e3)} ms.")
    log("caffe.cpp:415", "*** Benchmark ends ***")


# ---- What they share


def _message(flags: Flags, phase: int) -> NetParameter:
    """The net's message with its state, as Caffe logs it."""
    net = read_net(flags["model"])
    net.state.phase, net.state.level = phase, flags["level"]
    net.state.stage.extend(flags["stage"].split(","))
    return net


def _log_upgrades(log: CaffeLog, path: str) -> None:
    log_net_upgrades(log, read_net_as_it_is(path), path)


def _iterations(flags: Flags) -> int:
    if flags["iterations"] < 1:
        raise InputError(f"-iterations {flags['iterations']}: must be 1 or more")
    return flags["iterations"]


def allowed_modules() -> list[str]:
    """Load what the environment names: modules, and a fork's caffe.proto; gives the modules' names."""
    modules = filter(None, os.environ.get(ALLOW_MODULES, "").split(","))
    return load_own(modules, os.environ.get(PROTO) or None)


def _gpus(asked: str) -> list[int]:
    """Device numbers as -gpu gives them."""
    if asked == "all":
        import torch

        return list(range(torch.cuda.device_count()))
    try:
        return [int(part) for part in asked.split(",")] if asked else []
    except ValueError:
        raise InputError(f"-gpu {asked}: must be all, or device numbers with commas between") from None


def chosen_device(gpu: str, log: CaffeLog) -> "torch.device":
    """The first GPU asked for, which becomes the current one; the CPU where the machine has none."""
    import torch

    gpus = _gpus(gpu)
    if not gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        log(NOT_CAFFES, f"-gpu {gpu}: there is no CUDA device: computing on the CPU", "W")
        return torch.device("cpu")
    if gpus[0] >= torch.cuda.device_count():
        raise InputError(f"-gpu {gpu}: this machine has {torch.cuda.device_count()} CUDA devices")
    torch.cuda.set_device(gpus[0])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", gpus[0])


def _logged_device(gpu: str, log: CaffeLog, on_gpu: str, on_cpu: str) -> "torch.device":
    device = chosen_device(gpu, log)
    if device.type == "cuda":
        log(on_gpu, f"Use GPU with device ID {device.index}")
    else:
        log(on_cpu, "Use CPU.")
    return device
