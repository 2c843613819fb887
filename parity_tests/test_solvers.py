"""Caffe's six solvers and seven rate policies against genuine Caffe, update by update."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import port.pycaffe as caffe
from parity_tests.recordings import SEENET_TRAIN, WHOLE_NET, added, error, he_uniform, recorded, sampled
from port.training.caffe_log import CaffeLog
from port.training.loop import Solver, check_solver
from port.training.net import TrainingNet
from port.training.rate_policies import learning_rate
from port.training.solvers import SGD, SOLVERS, CaffeSolver, make_solver
from prototxt import parse_net
from prototxt.caffe_pb2 import SolverParameter
from prototxt.errors import InputError
from prototxt.read import text_format
from weights import LayerWeights, SolverSnapshot, write_solverstate

CASES = [
    pytest.param(suite, case, id=case["name"])
    for suite in ("solver", *added("training_cases"))
    for case in recorded(suite)[0]
]
SEENET_CASES, SEENET_ARRAYS = SEENET_TRAIN
QUIET = CaffeLog(silent=True)


def param_of(text: str, net: str) -> SolverParameter:
    param = text_format.Parse(text, SolverParameter())
    param.train_net_param.CopyFrom(parse_net(net))
    param.snapshot_after_train = False
    return param


def solver_of(text: str, net: str, device: str = "cpu") -> Solver:
    def make_net(source):
        return TrainingNet(source.net, source.phase, source.level, source.stages, log=QUIET, device=device)

    return Solver(param_of(text, net), make_net, log=QUIET)


def feed(net: TrainingNet, batches: dict[str, np.ndarray]) -> None:
    """Pass k sees batch k, around and around."""
    passes, run = itertools.count(), net.forward_backward

    def fed() -> np.float32:
        k = next(passes)
        for name, arrays in batches.items():
            net.inputs[name] = torch.from_numpy(arrays[k % len(arrays)]).to(net.device)
        return run()

    net.forward_backward = fed


def set_weights(net: TrainingNet, weights: dict[str, list[np.ndarray]]) -> None:
    net.net.copy_weights([LayerWeights(name, blobs=blobs) for name, blobs in weights.items()])


def grouped(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """Arrays `PREFIX/LAYER/I` by layer."""
    found: dict[str, list[np.ndarray]] = {}
    for key, array in arrays.items():
        if key.startswith(prefix + "/"):
            found.setdefault(key[len(prefix) + 1 :].rsplit("/", 1)[0], []).append(array)
    assert found, f"nothing recorded under {prefix}"
    return found


def batches_of(case: dict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each input's batches, by blob name."""
    prefix = f"{case['name']}/batch/"
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


@pytest.mark.parametrize(("suite", "case"), CASES)
def test_every_kept_iteration(suite: str, case: dict) -> None:
    name, arrays = case["name"], recorded(suite)[1]
    solver = solver_of(case["solver"], case["net"])
    set_weights(solver.net, grouped(f"{name}/init", arrays))
    feed(solver.net, batches_of(case, arrays))
    for iteration in case["kept_iterations"]:
        solver.step(iteration - solver.iteration)
        for layer, blobs in grouped(f"{name}/after/{iteration}", arrays).items():
            for weight, golden in zip(solver.net.net.named_layers()[layer].blobs, blobs, strict=True):
                assert error(weight.detach().cpu().numpy(), golden) <= WHOLE_NET, f"{layer} after {iteration}"


@pytest.mark.parametrize(("suite", "case"), CASES)
def test_pycaffe_update_by_update(suite: str, case: dict, tmp_path: Path) -> None:
    """The same through pycaffe, whose scripts run passes on their own and call apply_update."""
    name, arrays = case["name"], recorded(suite)[1]
    batches = batches_of(case, arrays)
    (tmp_path / "solver.prototxt").write_text(
        text_format.MessageToString(param_of(case["solver"], case["net"]))
    )
    solver = caffe.get_solver(tmp_path / "solver.prototxt")
    assert type(solver).__name__ == param_of(case["solver"], case["net"]).type + "Solver"
    for layer, blobs in grouped(f"{name}/init", arrays).items():
        for blob, array in zip(solver.net.params[layer], blobs, strict=True):
            blob.data[...] = array
    for iteration in range(1, case["kept_iterations"][-1] + 1):
        solver.net.clear_param_diffs()
        for k in range(case["iter_size"]):
            batch = ((iteration - 1) * case["iter_size"] + k) % case["batches"]
            outputs = solver.net.forward(**{blob: values[batch] for blob, values in batches.items()})
            solver.net.backward()
        golden_loss = case["loss_of_last_pass"][iteration - 1]
        assert abs(float(outputs[solver.net.outputs[0]]) - golden_loss) <= WHOLE_NET * abs(golden_loss)
        solver.apply_update()
        assert solver.iter == iteration
        if iteration in case["kept_iterations"]:
            for layer, blobs in grouped(f"{name}/after/{iteration}", arrays).items():
                for blob, golden in zip(solver.net.params[layer], blobs, strict=True):
                    assert error(blob.data, golden) <= WHOLE_NET, f"{layer} after {iteration}"


@pytest.mark.parametrize("case", [pytest.param(case, id=case["name"]) for case in SEENET_CASES])
def test_seenet_training(case: dict) -> None:
    """Three branches to the last iteration: the losses of each iteration's last pass, and the weights."""
    name, data = case["name"], case["data"]
    solver = solver_of(case["solver"], case["net"])
    net = solver.net
    shapes = {plan.name: [tuple(w.shape) for w in layer.blobs] for plan, layer in net._layers if layer.blobs}
    set_weights(net, he_uniform(shapes, case["weights"]["seed"]))
    pixels = SEENET_ARRAYS[f"{name}/{data['from']}"].astype(np.float32)
    values = (pixels - data["minus"]) / np.float32(data["over"])
    labels = SEENET_ARRAYS[f"{name}/label"]
    feed(
        net,
        {
            "data": values.reshape(-1, *net.inputs["data"].shape),
            "label": labels.reshape(-1, *net.inputs["label"].shape).astype(np.float32),
        },
    )
    recorded_losses = SEENET_ARRAYS[f"{name}/losses"]
    after = [key for key in SEENET_ARRAYS if key.startswith(f"{name}/after/")]
    for iteration in range(1, case["iterations"] + 1):
        solver.step(1)
        losses = np.array([output.values[0] for output in net.outputs()])
        assert error(losses, recorded_losses[iteration - 1]) <= WHOLE_NET, f"iteration {iteration}"
        for key in after:
            _, _, kept, layer, index = key.split("/")
            if int(kept) == iteration:
                weight = net.net.named_layers()[layer].blobs[int(index)].detach().cpu().numpy()
                actual = sampled(weight) if case["sampled"] else weight
                assert error(actual, SEENET_ARRAYS[key], np.abs(weight).max()) <= WHOLE_NET, key


# ---- what no recording shows


def test_rate_policies_by_hand() -> None:
    def rates(text: str, iterations: list[int]) -> list[float]:
        param = text_format.Parse(text, SolverParameter())
        step, found = 0, []
        for iteration in iterations:
            rate, step = learning_rate(param, iteration, step)
            found.append(float(rate))
        return found

    assert rates('lr_policy: "fixed" base_lr: 0.5', [0, 9]) == [0.5, 0.5]
    assert rates('lr_policy: "step" base_lr: 1 gamma: 0.5 stepsize: 3', [2, 3, 8]) == [1, 0.5, 0.25]
    assert rates('lr_policy: "exp" base_lr: 1 gamma: 0.5', [0, 3]) == [1, 0.125]
    assert rates('lr_policy: "inv" base_lr: 1 gamma: 1 power: 2', [0, 1, 3]) == [1, 0.25, 0.0625]
    assert rates('lr_policy: "poly" base_lr: 1 power: 2 max_iter: 4', [0, 2, 4]) == [1, 0.25, 0]
    assert rates('lr_policy: "sigmoid" base_lr: 1 gamma: 1 stepsize: 5', [5]) == [0.5]


def test_multistep_passes_one_step_an_iteration() -> None:
    """As Caffe: a run resumed without its current_step lags behind, one step for each iteration."""
    param = text_format.Parse(
        'lr_policy: "multistep" base_lr: 1 gamma: 0.5 stepvalue: 2 stepvalue: 3', SolverParameter()
    )
    assert learning_rate(param, 10, 0) == (0.5, 1)
    assert learning_rate(param, 11, 1) == (0.25, 2)
    assert learning_rate(param, 12, 2) == (0.25, 2)


def test_shared_weights_are_learned_once() -> None:
    """Two layers on one weight: one history blob, the gradients summed; lr_mult from the owner."""
    net = """
      layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
      layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" lr_mult: 2 }
              inner_product_param { num_output: 3 bias_term: false weight_filler { type: "xavier" } } }
      layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
              inner_product_param { num_output: 3 bias_term: false } }
      layer { name: "zero" type: "Input" top: "zero" input_param { shape { dim: 2 dim: 3 } } }
      layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "zero" top: "loss" }"""
    solver = solver_of('base_lr: 0.1 lr_policy: "fixed"', net)
    data = np.arange(6, dtype=np.float32).reshape(2, 3) / 6
    feed(solver.net, {"data": data[None]})
    weight = solver.net.net.a.weight
    before = weight.detach().clone()
    solver.step(1)
    assert len(solver.optimizer.history()) == 1
    free = before.clone().requires_grad_()
    (((torch.from_numpy(data) @ free.T @ free.T) ** 2).sum() / 4).backward()
    assert torch.allclose(weight, before - 0.2 * free.grad, atol=1e-6)
    assert solver.net.net.b.weight is weight


def test_a_weight_that_no_loss_reaches_still_decays() -> None:
    weight = torch.ones(3)
    optimizer = SGD([weight], 0.5, weight_decay=0.1)
    optimizer.step()
    assert torch.allclose(weight, torch.full((3,), 0.95))


def test_update_is_left_in_the_gradient() -> None:
    weight = torch.ones(2)
    weight.grad = torch.tensor([1.0, 2.0])
    SGD([weight], 0.5).step()
    assert weight.grad.tolist() == [0.5, 1.0]
    assert weight.tolist() == [0.5, 0.0]


@pytest.mark.parametrize("kind", SOLVERS)
def test_history_goes_around_a_solverstate(kind: str, tmp_path: Path) -> None:
    """Half the steps, a .solverstate, the other half: as in one go."""
    gradients = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)

    def run(optimizer: CaffeSolver, weight: torch.Tensor, steps: range) -> torch.Tensor:
        for k in steps:
            weight.grad = torch.from_numpy(gradients[k].copy())
            optimizer.step()
        return weight

    param = text_format.Parse(f'type: "{kind}" base_lr: 0.1 weight_decay: 0.01', SolverParameter())
    straight = torch.ones(2, 3)
    run(make_solver(param, [straight]), straight, range(6))
    resumed = torch.ones(2, 3)
    first = make_solver(param, [resumed])
    run(first, resumed, range(3))
    path = tmp_path / "x.solverstate"
    write_solverstate(path, SolverSnapshot(3, history=[blob.numpy() for blob in first.history()]))
    second = make_solver(param, [resumed])
    second.load_history([blob.copy() for blob in _history(path)])
    second.iteration = 3
    assert torch.equal(run(second, resumed, range(3, 6)), straight)
    assert len(first.history()) == (2 if kind in ("AdaDelta", "Adam") else 1)


def _history(path: Path) -> list[np.ndarray]:
    from weights import read_solverstate

    return read_solverstate(path).history


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('lr_policy: "steps"', 'lr_policy: "steps" is unknown'),
        ("", 'lr_policy: "" is unknown'),
        ('lr_policy: "step"', "stepsize: 0 must be above 0"),
        ('lr_policy: "exp" gamma: -1', "gamma: -1 must not be below 0"),
        ('lr_policy: "poly"', "max_iter: 0 must be above 0"),
        ('lr_policy: "fixed" type: "Sgd"', 'type: "Sgd" is unknown'),
        ('lr_policy: "fixed" type: "AdaGrad" momentum: 0.9', "momentum: 0.9 cannot be used with AdaGrad"),
        ('lr_policy: "fixed" type: "RMSProp" rms_decay: 1', "rms_decay: 1 must be from 0 to below 1"),
        ('lr_policy: "fixed" type: "Adam" momentum: 1', "momentum: 1 must be below 1"),
        ('lr_policy: "fixed" regularization_type: "L3"', 'regularization_type: "L3" is unknown'),
        ('lr_policy: "fixed" average_loss: 0', "average_loss: 0 must be at least 1"),
        ('lr_policy: "fixed" iter_size: 0', "iter_size: 0 must be at least 1"),
        ('lr_policy: "fixed" test_iter: 0', "test_iter: 0 must be at least 1"),
        ('lr_policy: "fixed" snapshot_diff: true', "snapshot_diff"),
    ],
)
def test_bad_settings_are_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        check_solver(text_format.Parse(text, SolverParameter()), "solver.prototxt")
    assert str(caught.value).startswith(f"solver.prototxt: {told}")
    assert "\n" not in str(caught.value)


def test_history_of_another_net_is_refused() -> None:
    optimizer = SGD([torch.ones(2, 3)], 0.1)
    with pytest.raises(InputError, match="another net or another type of solver"):
        optimizer.load_history([np.ones((2, 3), np.float32)] * 2)
    with pytest.raises(InputError, match="another net"):
        optimizer.load_history([np.ones((3, 2), np.float32)])
    optimizer.load_history([np.full((1, 1, 2, 3), 7, np.float32)])
    assert optimizer.history()[0].eq(7).all()
