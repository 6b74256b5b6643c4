"""The loop against a naive one, and every way in which optimizers, rules and probes meet on it."""

import math
import time

import numpy as np
import pytest
import torch
from torch import nn as torch_nn
from torch.nn import functional

from assay import data, nn
from assay.data import Labelled
from assay.train import Diverged, accuracy, evaluate, fit


def examples(n=70, shape=(1, 8, 8), classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Labelled(torch.rand(n, *shape, generator=generator), torch.randint(classes, (n,), generator=generator))


def network(name="smallcnn", classes=4, seed=0):
    torch.manual_seed(seed)
    options = {"smallcnn": {"widths": (4, 6)}, "mlp": {"widths": (12,)}, "convnet": {"widths": (3, 4, 8)}}
    return nn.build(name, (1, 8, 8), classes, **options[name])


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9} | options))


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(one, two):
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


def naive(model, part, optimizer, *, epochs, batch_size, seed):
    """The loop everybody writes."""
    model.train()
    generator = torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(epochs):
        order = torch.randperm(len(part.targets), generator=generator)
        total = 0.0
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(part.inputs[rows]), part.targets[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        curve.append(total / len(order))
    return curve


# The loop itself


@pytest.mark.parametrize("name", ["smallcnn", "mlp", "convnet"])
def test_it_is_the_loop_everybody_writes_to_the_last_bit(name):
    part, ours, theirs = examples(), network(name), network(name)
    history = fit(ours, part, sgd(ours), epochs=3, batch_size=16, seed=5)
    curve = naive(theirs, part, sgd(theirs), epochs=3, batch_size=16, seed=5)
    assert_same(state(ours), state(theirs))
    np.testing.assert_allclose(history.loss, curve, rtol=1e-12)
    assert history.loss.dtype == np.float64
    assert history.steps == 3 * 5


def test_running_statistics_of_batch_normalization_are_those_of_the_batches():
    """By hand: r <- 0.9 r + 0.1 mean, 0.9 r + 0.1 unbiased variance, once a batch, in order."""
    part = examples(n=20)
    model = torch_nn.Sequential(torch_nn.BatchNorm2d(1, affine=False), torch_nn.Flatten(), torch_nn.Linear(64, 4))
    fit(model, part, sgd(model), epochs=1, batch_size=8, seed=1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    mean, variance = 0.0, 1.0
    for rows in (order[:8], order[8:16], order[16:]):
        values = part.inputs[rows].double()
        mean, variance = 0.9 * mean + 0.1 * values.mean(), 0.9 * variance + 0.1 * values.var()
    assert model[0].running_mean.item() == pytest.approx(mean.item(), rel=1e-5)
    assert model[0].running_var.item() == pytest.approx(variance.item(), rel=1e-5)


def test_the_same_seed_is_the_same_run_whatever_else_is_drawn():
    part = examples()

    def run(draw=0, **options):
        model = network()
        torch.manual_seed(draw)
        fit(model, part, sgd(model), epochs=2, batch_size=16, on_step=lambda _: torch.rand(draw + 1), **options)
        return state(model)

    assert_same(run(seed=3), run(draw=9, seed=3))
    assert_same(run(seed=3), run(generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(run(seed=3)["0.weight"], run(seed=4)["0.weight"])


def test_real_valued_targets_and_another_loss():
    truth = torch.tensor([2.0, -1.0], dtype=torch.float64)
    part = data.linear_regression(200, truth, generator=torch.Generator().manual_seed(0))
    model = torch_nn.Sequential(torch_nn.Linear(2, 1, bias=False), torch_nn.Flatten(0)).double()
    fit(model, part, sgd(model, momentum=0.0), epochs=30, loss=functional.mse_loss, batch_size=50)
    torch.testing.assert_close(model[0].weight[0], truth, rtol=0, atol=1e-6)


def test_schedules_step_once_an_epoch():
    rates = []
    model = network()
    optimizer = sgd(model, lr=0.8)
    fit(
        model,
        examples(),
        optimizer,
        epochs=3,
        batch_size=16,
        schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        on_step=lambda _: rates.append(optimizer.param_groups[0]["lr"]),
    )
    assert rates == [0.8] * 5 + [0.4] * 5 + [0.2] * 5


def test_a_schedule_that_watches_a_measure_is_given_the_loss():
    seen = []

    class Watching(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def step(self, metrics):
            seen.append(metrics)
            super().step(metrics)

    model = network()
    history = fit(model, examples(), sgd(model), epochs=2, schedule=Watching)
    assert seen == history.loss.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_given_back_as_they_were(training):
    model = network().train(training)
    model[1].eval()  # one frozen layer
    before = [m.training for m in model.modules()]
    during = []
    fit(model, examples(), sgd(model), epochs=2, on_step=lambda m: during.append(all(x.training for x in m.modules())))
    assert all(during)
    assert [m.training for m in model.modules()] == before
    accuracy(model, examples())
    evaluate(model, examples())
    assert [m.training for m in model.modules()] == before


def test_a_callback_that_evaluates_changes_nothing():
    part, plain, watched = examples(), network(), network()
    fit(plain, part, sgd(plain), epochs=3, batch_size=16)
    scores = []
    fit(watched, part, sgd(watched), epochs=3, batch_size=16, on_epoch=lambda m: scores.append(accuracy(m, part)))
    assert_same(state(plain), state(watched))
    assert len(scores) == 3


def test_a_callback_may_leave_the_model_in_evaluation_mode():
    part, plain, watched = examples(), network(), network()
    fit(plain, part, sgd(plain), epochs=3, batch_size=16)
    fit(watched, part, sgd(watched), epochs=3, batch_size=16, on_epoch=lambda m: m.eval())
    assert_same(state(plain), state(watched))
    assert watched.training


def test_channels_last_agrees_and_gives_the_layout_back():
    part, plain, last = examples(n=64), network("convnet"), network("convnet")
    layouts = []
    fit(plain, part, sgd(plain), epochs=2, batch_size=16)
    fit(
        last,
        part,
        sgd(last),
        epochs=2,
        batch_size=16,
        channels_last=True,
        on_step=lambda m: layouts.append(m[3].weight.is_contiguous(memory_format=torch.channels_last)),
    )
    assert all(layouts)
    assert all(p.is_contiguous() for p in last.parameters())
    for key, value in state(plain).items():  # eight steps, sums in another order
        torch.testing.assert_close(last.state_dict()[key], value, rtol=1e-4, atol=1e-5)


def test_bf16_runs_in_bf16_and_agrees_to_its_precision():
    part, plain, half = examples(n=64), network("mlp"), network("mlp")
    kinds = []
    half[1].register_forward_hook(lambda m, i, out: kinds.append(out.dtype))
    options = {"epochs": 1, "batch_size": 16}
    one = fit(plain, part, sgd(plain), **options)
    two = fit(half, part, sgd(half), bf16=True, **options)
    assert set(kinds) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in half.parameters())
    assert abs(one.loss[0] - two.loss[0]) < 4 * 2**-8 * one.loss[0]
    assert one.loss[0] != two.loss[0]


def test_seconds_leave_callbacks_out():
    model, asleep = network("mlp"), []

    def sleep(_):
        start = time.perf_counter()
        time.sleep(0.05)
        asleep.append(time.perf_counter() - start)

    start = time.perf_counter()
    history = fit(model, examples(), sgd(model), epochs=2, batch_size=35, on_step=sleep, on_epoch=sleep)
    whole = time.perf_counter() - start
    assert len(asleep) == 6
    assert 0 < history.seconds <= whole - sum(asleep)


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def test_examples_follow_the_model_to_its_device_in_the_same_order(device):
    part, seen = examples(), []

    def loss(logits, targets):
        seen.extend(targets.tolist())
        return functional.cross_entropy(logits, targets)

    model = network("mlp").to(device)
    history = fit(model, part, sgd(model), epochs=1, batch_size=16, seed=3, loss=loss)
    assert seen == part.targets[torch.randperm(70, generator=torch.Generator().manual_seed(3))].tolist()
    assert history.loss.shape == (1,)
    assert 0.0 <= accuracy(model, part) <= 1.0
    assert evaluate(model, part) > 0.0
    with pytest.raises(Diverged, match="the loss is nan in epoch 1, step 1"):
        fit(model, part, sgd(model), epochs=1, loss=lambda logits, targets: logits.sum() * math.nan)


# Optimizers


class Recording(torch.optim.SGD):
    """Notes whether its gradients can be differentiated, and uses a Hessian-vector product if so."""

    needs_graph = True

    def step(self, closure=None):
        loss = closure()
        parameters = [p for g in self.param_groups for p in g["params"]]
        grads = [p.grad for p in parameters]
        assert all(g.grad_fn is not None for g in grads)
        with torch.enable_grad():
            self.hv = torch.autograd.grad(sum((g * g.detach()).sum() for g in grads), parameters)
        for p, g in zip(parameters, grads, strict=True):
            p.grad = g.detach()
        super().step()
        return loss


def test_an_optimizer_that_needs_a_graph_gets_gradients_with_one():
    part = examples(n=16)
    ours, plain = network("mlp"), network("mlp")
    optimizer = Recording(ours.parameters(), lr=0.1)
    fit(ours, part, optimizer, epochs=1, batch_size=16, seed=2)

    # Against torch.func on the same batch: Hv with v the gradient.
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    values = dict(plain.named_parameters())

    def loss(parameters):
        logits = torch.func.functional_call(plain, parameters, (part.inputs[order],))
        return functional.cross_entropy(logits, part.targets[order])

    gradient = torch.func.grad(loss)
    slope = {key: g.detach() for key, g in gradient(values).items()}
    _, pull = torch.func.vjp(gradient, values)
    for found, expected in zip(optimizer.hv, pull(slope)[0].values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    # And the step itself is plain SGD's.
    fit(plain, part, sgd(plain, momentum=0.0), epochs=1, batch_size=16, seed=2)
    for key, value in state(plain).items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=0, atol=1e-7)


def test_graphs_do_not_outlive_their_step():
    model = network("mlp")
    left = []
    fit(
        model,
        examples(),
        Recording(model.parameters(), lr=0.1),
        epochs=2,
        batch_size=16,
        on_step=lambda m: left.extend(p.grad for p in m.parameters()),
    )
    assert left == [None] * 10 * 4


def test_without_needs_graph_there_is_none_and_gradients_stay_for_probes_to_see():
    model = network("mlp")
    seen = []
    fit(model, examples(), sgd(model), epochs=1, on_step=lambda m: seen.extend(p.grad for p in m.parameters()))
    assert len(seen) == 4
    assert all(g is not None and g.grad_fn is None and not g.requires_grad for g in seen)


class Sharpness(torch.optim.SGD):
    """Two closures a step: climb by rho along the gradient, take the gradient there, come back, descend."""

    def __init__(self, params, lr, rho):
        super().__init__(params, lr)
        self.rho = rho

    def step(self, closure=None):
        loss = closure()
        parameters = [p for g in self.param_groups for p in g["params"]]
        with torch.no_grad():
            norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters))
            climbs = [self.rho * p.grad / norm for p in parameters]
            for p, climb in zip(parameters, climbs, strict=True):
                p.add_(climb)
        closure()
        with torch.no_grad():
            for p, climb in zip(parameters, climbs, strict=True):
                p.sub_(climb)
        super().step()
        return loss


def test_optimizers_that_switch_gradients_off_need_not_switch_them_on_for_the_closure():
    class Off(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            loss = closure()
            super().step()
            return loss

    part, ours, theirs = examples(), network("mlp"), network("mlp")
    fit(ours, part, Off(ours.parameters(), lr=0.1), epochs=1, batch_size=16)
    fit(theirs, part, sgd(theirs, momentum=0.0), epochs=1, batch_size=16)
    assert_same(state(ours), state(theirs))


def test_two_closures_a_step_make_a_sharpness_aware_step():
    part, ours, theirs = examples(n=48), network(), network()
    history = fit(ours, part, Sharpness(ours.parameters(), 0.1, 0.05), epochs=1, batch_size=16, seed=1)

    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    losses = []
    for start in (0, 16, 32):
        x, y = part.inputs[order[start : start + 16]], part.targets[order[start : start + 16]]
        parameters = list(theirs.parameters())
        loss = functional.cross_entropy(theirs(x), y)
        losses.append(loss.item())
        first = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum((g**2).sum() for g in first))
        statistics = {key: value.clone() for key, value in theirs.named_buffers()}
        with torch.no_grad():
            for p, g in zip(parameters, first, strict=True):
                p.add_(0.05 * g / norm)
        second = torch.autograd.grad(functional.cross_entropy(theirs(x), y), parameters)
        with torch.no_grad():
            for p, g, h in zip(parameters, first, second, strict=True):
                p.sub_(0.05 * g / norm).sub_(0.1 * h)
            for key, value in theirs.named_buffers():  # the climb leaves no trace in the running statistics
                value.copy_(statistics[key])
    for key, value in state(theirs).items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=1e-6)
    assert history.loss[0] == pytest.approx(np.mean(losses), rel=1e-5)


def test_line_searches_call_the_closure_often_and_statistics_count_once():
    part, model = examples(n=32), network()
    calls = []
    inner = model.forward
    model.forward = lambda x: (calls.append(1), inner(x))[1]
    before = evaluate(model, part)
    calls.clear()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")
    history = fit(model, part, optimizer, epochs=2, batch_size=32)
    assert history.steps == 2
    assert len(calls) > 4
    assert all(m.num_batches_tracked == 2 for m in model.modules() if isinstance(m, torch_nn.BatchNorm2d))
    assert all(m.track_running_stats for m in model.modules() if isinstance(m, torch_nn.BatchNorm2d))
    assert history.loss[1] < history.loss[0]
    assert before > 0


def test_lbfgs_in_one_batch_is_lbfgs():
    part, ours, theirs = examples(n=32), network("mlp"), network("mlp")
    fit(ours, part, torch.optim.LBFGS(ours.parameters(), max_iter=8), epochs=1, batch_size=32, seed=4)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(4))
    optimizer = torch.optim.LBFGS(theirs.parameters(), max_iter=8)

    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(theirs(part.inputs[order]), part.targets[order])
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_same(state(ours), state(theirs))


def test_a_part_of_the_model_can_be_trained():
    part, model = examples(), network()
    before = state(model)
    model[0].weight.requires_grad_(False)
    fit(model, part, sgd(model[-1]), epochs=1)
    fit(model, part, Recording(model[-1].parameters(), lr=0.1), epochs=1)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[4].weight, before["4.weight"])
    assert not torch.equal(model[-1].weight, before[f"{len(model) - 1}.weight"])


# Learning rules


def backpropagation(model, inputs, targets, loss):
    value = loss(model(inputs), targets)
    value.backward()
    return value


def test_a_rule_that_is_backpropagation_is_backpropagation_to_the_last_bit():
    part, ours, theirs = examples(), network(), network()
    one = fit(ours, part, sgd(ours), epochs=2, batch_size=16, rule=backpropagation)
    two = fit(theirs, part, sgd(theirs), epochs=2, batch_size=16)
    assert_same(state(ours), state(theirs))
    assert one.loss.tolist() == two.loss.tolist()


def test_any_rule_goes_with_any_optimizer():
    """The rule asks for the sign of every weight; plain descent then moves each by lr."""
    part, model = examples(n=16), network("mlp")
    before = state(model)

    def rule(model, inputs, targets, loss):
        assert all(p.grad is None for p in model.parameters())
        with torch.no_grad():
            for p in model.parameters():
                p.grad = p.sign()
            return loss(model(inputs), targets)

    fit(model, part, sgd(model, momentum=0.0, lr=1e-3), epochs=1, batch_size=16, rule=rule)
    for key, value in state(model).items():
        torch.testing.assert_close(value, before[key] - 1e-3 * before[key].sign(), rtol=0, atol=1e-8)
    for optimizer in (torch.optim.Adam(model.parameters()), Sharpness(model.parameters(), 0.1, 0.05)):
        assert math.isfinite(fit(model, part, optimizer, epochs=1, rule=rule).loss[0])


def test_rules_may_run_in_bf16():
    model = network("mlp")
    history = fit(model, examples(), sgd(model), epochs=1, rule=backpropagation, bf16=True)
    assert math.isfinite(history.loss[0])


# Probes


class Probe:
    def __init__(self):
        self.steps, self.epochs = 0, []

    def on_step(self, model):
        self.steps += 1

    def on_epoch(self, model):
        self.epochs.append(model[1].weight.detach().clone())


class EpochProbe:
    def __init__(self):
        self.count = 0

    def on_epoch(self, model):
        self.count += 1


def test_probes_are_called_where_they_can_be_and_never_before_the_first_step():
    model, probe, other = network("mlp"), Probe(), EpochProbe()
    start = model[1].weight.detach().clone()
    calls = []
    fit(
        model,
        examples(),
        sgd(model),
        epochs=3,
        batch_size=16,
        probes=[probe, other],
        on_epoch=[lambda m: calls.append("a"), lambda m: calls.append("b")],
        on_step=(lambda m: calls.append("s"),),
    )
    assert (probe.steps, len(probe.epochs), other.count) == (15, 3, 3)
    assert calls == (["s"] * 5 + ["a", "b"]) * 3
    assert not torch.equal(probe.epochs[0], start)
    assert torch.equal(probe.epochs[-1], model[1].weight)


# Divergence


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where():
    part, model = examples(n=48), network("mlp")
    count = []

    def loss(logits, targets):
        count.append(1)
        value = functional.cross_entropy(logits, targets)
        return value * math.nan if len(count) == 5 else value

    with pytest.raises(Diverged, match=r"the loss is nan in epoch 2, step 2$"):
        fit(model.eval(), part, sgd(model), epochs=9, batch_size=16, loss=loss)
    assert len(count) == 5
    assert not any(m.training for m in model.modules())
    assert issubclass(Diverged, FloatingPointError)


def test_weights_that_are_not_finite_stop_the_run_though_the_loss_was():
    model = network("mlp")

    class Jump(torch.optim.SGD):
        def step(self, closure=None):
            loss = closure()
            with torch.no_grad():
                model[3].bias[1] = math.inf
            return loss

    with pytest.raises(Diverged, match=r"the weight 3\.bias is not finite after epoch 1, step 1"):
        fit(model, examples(n=16), Jump(model.parameters()), epochs=3, batch_size=16)


def test_a_step_far_too_long_diverges():
    model = network("mlp")
    with pytest.raises(Diverged, match="epoch"):
        fit(model, examples(), sgd(model, lr=1e30), epochs=5, batch_size=16)


# Evaluation


def test_accuracy_is_the_share_of_right_answers_in_evaluation_mode():
    part, model = examples(n=70), network()
    fit(model, part, sgd(model), epochs=2, batch_size=16)
    model.train()
    right = 0
    for image, label in zip(part.inputs, part.targets, strict=True):
        model.eval()
        right += int(model(image[None]).argmax() == label)
    model.train()
    assert accuracy(model, part, batch_size=11) == pytest.approx(right / 70, abs=1e-12)
    assert accuracy(model, part) == accuracy(model, part, batch_size=70)


def test_evaluation_weighs_examples_not_batches():
    part, model = examples(n=70), network().eval()
    whole = functional.cross_entropy(model(part.inputs), part.targets).item()
    assert evaluate(model, part, batch_size=32) == pytest.approx(whole, rel=1e-6)


def test_evaluation_leaves_gradients_and_statistics_alone():
    part, model = examples(), network()
    before = state(model)
    accuracy(model, part)
    evaluate(model, part)
    assert_same(state(model), before)
    assert all(p.grad is None for p in model.parameters())


def test_outputs_that_are_not_finite_are_no_accuracy():
    model = network("mlp")
    model[1].weight.data[0, 0] = math.nan
    for measure in (accuracy, evaluate):
        with pytest.raises(Diverged, match="outputs are not finite"):
            measure(model, examples())
    with pytest.raises(Diverged, match="the loss is inf"):
        evaluate(network("mlp"), examples(), lambda logits, targets: logits.sum() * 0 + math.inf)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1: got 0"),
        ({"epochs": 1, "batch_size": 0}, "batch_size must be at least 1: got 0"),
    ],
)
def test_refused_counts(options, message):
    model = network("mlp")
    with pytest.raises(ValueError, match=message):
        fit(model, examples(), sgd(model), **options)


def test_refused_data():
    model, none = network("mlp"), examples(n=0)
    for call in (
        lambda: fit(model, none, sgd(model), epochs=1),
        lambda: accuracy(model, none),
        lambda: evaluate(model, none),
    ):
        with pytest.raises(ValueError, match="data must hold at least one example: got none"):
            call()
    with pytest.raises(ValueError, match="batch_size must be at least 1: got 0"):
        accuracy(model, examples(), batch_size=0)


def test_a_rule_cannot_give_the_graph_that_an_optimizer_needs():
    model = network("mlp")
    with pytest.raises(ValueError, match="rule must be None for Recording, whose gradients need a graph"):
        fit(model, examples(), Recording(model.parameters(), lr=0.1), epochs=1, rule=backpropagation)


def test_callbacks_that_are_none():
    model = network("mlp")
    with pytest.raises(TypeError, match="on_step must be callable with the model: got int"):
        fit(model, examples(), sgd(model), epochs=1, on_step=[3])
    with pytest.raises(TypeError, match="on_epoch must be callable with the model: got str"):
        fit(model, examples(), sgd(model), epochs=1, on_epoch=["a"])
    with pytest.raises(TypeError, match="probes must have a method on_step or on_epoch: got object"):
        fit(model, examples(), sgd(model), epochs=1, probes=[object()])


def test_an_optimizer_that_does_not_call_its_closure_is_named():
    class Deaf(torch.optim.SGD):
        def step(self, closure=None):
            return None

    model = network("mlp")
    with pytest.raises(TypeError, match="optimizer must call the closure given to its step: Deaf did not"):
        fit(model, examples(), Deaf(model.parameters()), epochs=1)
