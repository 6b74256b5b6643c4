"""What every optimizer of the house keeps to, whatever its method: torch's own contract, run over all of them."""

import copy
import io
import warnings

import pytest
import torch

from assay import optim
from assay.data import Labelled
from assay.train import fit

# name -> how it is made from parameters (or parameter groups) at a small learning rate. Every public optimizer is here.
MADE = {
    "AdaHessian": lambda parameters: optim.AdaHessian(parameters, lr=0.01),
    "CoordinateClipped": lambda parameters: optim.CoordinateClipped(torch.optim.SGD(parameters, lr=0.01, momentum=0.9)),
    "DiffGrad": lambda parameters: optim.DiffGrad(parameters, lr=0.01),
    "GradientNoise": lambda parameters: optim.GradientNoise(torch.optim.SGD(parameters, lr=0.01), eta=1e-3),
    "SAM": lambda parameters: optim.SAM(torch.optim.SGD(parameters, lr=0.01, momentum=0.9)),
    "MFAC": lambda parameters: optim.MFAC(parameters, lr=1e-3, momentum=0.5, window=4, damp=1e-2),
    "OrthoGrad": lambda parameters: optim.OrthoGrad(torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)),
    "Wrapper": lambda parameters: optim.Wrapper(torch.optim.SGD(parameters, lr=0.01, momentum=0.9)),
    "GradientWrapper": lambda parameters: optim.GradientWrapper(torch.optim.Adam(parameters, lr=0.01)),
}
# Those that cannot work without a closure; the rest must also work after a plain backward().
NEEDS_CLOSURE: set[str] = {"SAM"}
# Those that take complex parameters; all others refuse them by name.
COMPLEX: set[str] = {"DiffGrad", "Wrapper"}
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()

public = [
    name
    for name in optim.__all__
    if name != "MixedPrecision"  # which is made with its model; its own tests do what is done here
    and isinstance(getattr(optim, name), type)
    and issubclass(getattr(optim, name), torch.optim.Optimizer)
]


def test_every_public_optimizer_is_here():
    assert set(MADE) == set(public)


def problem(device="cpu", dtype=torch.float32):
    """A small classifier with a convolution, a norm and a linear layer, and one batch for it."""
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(5)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.GroupNorm(1, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(48, 4)
    )
    inputs = torch.randn(12, 1, 6, 6, generator=generator)
    targets = torch.randint(4, (12,), generator=generator)
    return model.to(device, dtype), inputs.to(device, dtype), targets.to(device)


def stepper(model, optimizer, inputs, targets):
    """A function that makes one step the way every training loop may."""

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        if getattr(optimizer, "needs_graph", False):
            with warnings.catch_warnings():  # torch warns of the cycle between a parameter and its gradient's graph
                warnings.simplefilter("ignore")
                loss.backward(create_graph=True)
        else:
            loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MADE)
def test_the_loss_falls_and_is_returned(name, device):
    torch.manual_seed(0)
    model, inputs, targets = problem(device)
    step = stepper(model, MADE[name](model.parameters()), inputs, targets)
    losses = [step().item() for _ in range(30)]
    assert losses[-1] < losses[0]
    assert losses[0] == pytest.approx(
        torch.nn.functional.cross_entropy(problem(device)[0](inputs), targets).item(), rel=1e-5
    )


@pytest.mark.parametrize("name", MADE)
def test_plain_backward_and_step(name):
    """Without a closure, as in most people's loops; what needs one refuses by name."""
    model, inputs, targets = problem()
    optimizer = MADE[name](model.parameters())
    before = weights(model)
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss.backward(create_graph=getattr(optimizer, "needs_graph", False))
    if name in NEEDS_CLOSURE:
        with pytest.raises((TypeError, ValueError), match="closure"):
            optimizer.step()
        return
    optimizer.step()
    assert all((a != b).any() for a, b in zip(before, weights(model), strict=True))


@pytest.mark.parametrize("name", MADE)
def test_state_survives_saving(name):
    """Three steps, saved and loaded into a fresh pair (weights_only), three more: as six in one go."""
    runs = []
    for broken in (False, True):
        torch.manual_seed(0)
        model, inputs, targets = problem()
        optimizer = MADE[name](model.parameters())
        step = stepper(model, optimizer, inputs, targets)
        for _ in range(3):
            step()
        if broken:
            file = io.BytesIO()
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            model, inputs, targets = problem()
            model.load_state_dict(saved["model"])
            optimizer = MADE[name](model.parameters())
            optimizer.load_state_dict(saved["optimizer"])
            step = stepper(model, optimizer, inputs, targets)
        torch.manual_seed(1)
        for _ in range(3):
            step()
        runs.append(weights(model))
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", MADE)
def test_same_seed_same_run(name):
    runs = []
    for _ in range(2):
        torch.manual_seed(11)
        model, inputs, targets = problem()
        step = stepper(model, MADE[name](model.parameters()), inputs, targets)
        for _ in range(4):
            step()
        runs.append(weights(model))
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MADE)
def test_groups_have_their_own_learning_rate(name):
    """A group at learning rate 0 stays where it is, the others move."""
    torch.manual_seed(0)
    model, inputs, targets = problem()
    optimizer = MADE[name]([{"params": model[0].parameters(), "lr": 0.0}, {"params": model[4].parameters()}])
    before = weights(model)
    step = stepper(model, optimizer, inputs, targets)
    step(), step()
    after = weights(model)
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [False, False, False, False, True, True]


@pytest.mark.parametrize("name", MADE)
def test_schedulers_drive_it(name):
    torch.manual_seed(0)
    model, inputs, targets = problem()
    optimizer = MADE[name](model.parameters())
    rate = optimizer.param_groups[0]["lr"]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.0)
    step = stepper(model, optimizer, inputs, targets)
    step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.0 < rate
    before = weights(model)
    step()
    for a, b in zip(before, weights(model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", MADE)
def test_parameters_without_a_gradient_stay(name):
    torch.manual_seed(0)
    model, inputs, targets = problem()
    idle = torch.nn.Parameter(torch.ones(3))
    step = stepper(model, MADE[name]([*model.parameters(), idle]), inputs, targets)
    step(), step()
    assert torch.equal(idle.detach(), torch.ones(3))


@pytest.mark.parametrize("name", MADE)
def test_it_trains_in_the_house_loop(name):
    torch.manual_seed(0)
    model, inputs, targets = problem()
    before = weights(model)
    history = fit(model, Labelled(inputs, targets), MADE[name](model.parameters()), epochs=2, batch_size=6)
    assert history.steps == 4
    assert any((a != b).any() for a, b in zip(before, weights(model), strict=True))


@pytest.mark.parametrize("name", MADE)
def test_sparse_gradients_are_refused_by_name(name):
    if name == "Wrapper":
        return  # it hands everything on
    weight = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = MADE[name]([weight])

    def closure():
        weight.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=True)
        return torch.tensor(1.0)

    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"(?i)dense|sparse|graph"):
        optimizer.step(closure)


@pytest.mark.parametrize("name", MADE)
def test_complex_parameters_are_supported_or_refused_by_name(name):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.tensor([1 + 2j, -1 + 0.5j]))

    def make():
        optimizer = MADE[name]([weight])

        def closure():
            optimizer.zero_grad()
            loss = (weight - 3j).abs().square().sum()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loss.backward(create_graph=getattr(optimizer, "needs_graph", False))
            return loss

        for _ in range(5):
            optimizer.step(closure)
        return closure()

    if name in COMPLEX:
        assert make() < 15.0  # where it starts
    else:
        with pytest.raises((TypeError, ValueError), match=r"(?i)real|complex"):
            make()


@pytest.mark.parametrize("name", MADE)
def test_a_copy_goes_its_own_way(name):
    torch.manual_seed(0)
    model, inputs, targets = problem()
    optimizer = MADE[name](model.parameters())
    stepper(model, optimizer, inputs, targets)()
    twin_model, twin = copy.deepcopy((model, optimizer))
    before = weights(model)
    step = stepper(twin_model, twin, inputs, targets)
    step()
    assert any((a != b).any() for a, b in zip(before, weights(twin_model), strict=True))
    for a, b in zip(before, weights(model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(set(MADE) - NEEDS_CLOSURE))
def test_a_gradient_scaler_drives_it(name):
    """The scaler unscales, skips a step whose gradients overflowed, and takes the next."""
    torch.manual_seed(0)
    model, inputs, targets = problem()
    optimizer = MADE[name](model.parameters())
    if getattr(optimizer, "needs_graph", False):
        return  # a scaled loss scales second derivatives too; the optimizer's own tests say what it does
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = weights(model)
    for poison in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(torch.nn.functional.cross_entropy(model(inputs), targets) * poison).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = any((a != b).any() for a, b in zip(before, weights(model), strict=True))
        assert moved == (poison == 1.0)
