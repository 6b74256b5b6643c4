"""What every loss of the house keeps to, whatever its formula: torch's own contract, run over all of them."""

import jaxtyping
import pytest
import torch

from assay import losses

# Classification losses, called with logits (n, k) and targets (n,): name -> how it is made with a given reduction.
CLASSIFICATION: dict = {}
# Those of them that take logits (n, k, d1, ...) and targets (n, d1, ...) as torch's cross-entropy does.
DENSE: set[str] = set()
# Everything else: name -> () -> (loss module, the tensors it is called with; those of real numbers get a gradient).
OTHERS: dict = {}


def drawn(*shapes):
    """Standard normal numbers of each shape."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator) for shape in shapes]


OTHERS["CSIBLoss"] = lambda: (losses.CSIBLoss(beta=0.5), drawn((12, 3), (12, 2), (12, 1), (12, 1)))
OTHERS["FCCovLoss"] = lambda: (losses.FCCovLoss(), [*drawn((12, 3)), losses.metric_distances(*drawn((12, 2)))])


def images():
    """Two batches of images in [0, 1] that resemble each other."""
    generator = torch.Generator().manual_seed(3)
    x, noise = torch.rand(2, 2, 3, 48, 48, generator=generator)
    return [x, 0.8 * x + 0.2 * noise]


OTHERS["SSIMLoss"] = lambda: (losses.SSIMLoss(), images())
OTHERS["MSSSIMLoss"] = lambda: (losses.MSSSIMLoss(), images())
OTHERS["ContextualLoss"] = lambda: (losses.ContextualLoss(losses.patch_features, h=1.0), images())
OTHERS["SigmoidContrastiveLoss"] = lambda: (losses.SigmoidContrastiveLoss(), drawn((8, 6), (8, 6)))
OTHERS["SoftmaxContrastiveLoss"] = lambda: (losses.SoftmaxContrastiveLoss(), drawn((8, 6), (8, 6)))
OTHERS["FeatureReconstructionLoss"] = lambda: (losses.FeatureReconstructionLoss(), images())
OTHERS["GramStyleLoss"] = lambda: (losses.GramStyleLoss(style=images()[1][:1]), images()[:1])
OTHERS["S3IM"] = lambda: (losses.S3IM(repeats=2), [pixels.sigmoid() for pixels in drawn((64, 3), (64, 3))])
CLASSIFICATION["FocalLoss"] = lambda reduction: losses.FocalLoss(gamma=1.5, reduction=reduction)
DENSE.add("FocalLoss")
CLASSIFICATION["DualFocalLoss"] = lambda reduction: losses.DualFocalLoss(gamma=1.5, reduction=reduction)
DENSE.add("DualFocalLoss")
CLASSIFICATION["StableMaxCrossEntropy"] = lambda reduction: losses.StableMaxCrossEntropy(reduction=reduction)
DENSE.add("StableMaxCrossEntropy")
CLASSIFICATION["CompSumLoss"] = lambda reduction: losses.CompSumLoss(tau=0.5, reduction=reduction)
DENSE.add("CompSumLoss")
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()

public = [name for name in losses.__all__ if isinstance(getattr(losses, name), type) and name.endswith("Loss")]
EVERY = [*CLASSIFICATION, *OTHERS]


# Called with a network, not with tensors alone, or drawing shifts, for which a graph has to wait; their own tests do
# what is done here.
ELSEWHERE = {"PatchTripletLoss", "SymFaceLoss"}


def test_every_public_loss_is_here():
    assert set(public) <= {*EVERY, *ELSEWHERE}


def batch(classes=5, n=8, *extra, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(2)
    logits = 2 * torch.randn(n, classes, *extra, generator=generator, dtype=torch.float64)
    targets = torch.randint(classes, (n, *extra), generator=generator)
    return logits.to(device, dtype).requires_grad_(), targets.to(device)


def called(name, dtype=torch.float32, device="cpu"):
    """The loss, called on an ordinary example: (value, tensors with a gradient, a function that calls it again)."""
    if name in CLASSIFICATION:
        loss, tensors = CLASSIFICATION[name]("mean"), batch(dtype=dtype, device=device)
    else:
        loss, tensors = OTHERS[name]()
        tensors = [t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in tensors]
        tensors = [t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    loss = loss.to(device, dtype)
    torch.manual_seed(0)
    return loss, tensors


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
def test_value_and_gradient_are_finite_and_of_the_inputs_kind(name, dtype, device):
    loss, tensors = called(name, dtype, device)
    value = loss(*tensors)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.device.type == device
    assert value.isfinite()
    value.backward()
    assert tensors[0].grad.isfinite().all()
    assert tensors[0].grad.abs().sum() > 0


@pytest.mark.parametrize("name", EVERY)
def test_it_does_not_write_into_what_it_is_given(name):
    loss, tensors = called(name)
    before = [t.detach().clone() for t in tensors]
    loss(*tensors).backward()
    for a, b in zip(before, tensors, strict=True):
        assert torch.equal(a, b.detach())


@pytest.mark.parametrize("name", EVERY)
def test_under_autocast(name):
    """As torch's own losses: in float32 at least where autocast would lose digits, and near the plain value."""
    loss, tensors = called(name)
    plain = loss(*tensors).detach()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(*tensors)
    mixed.backward()
    assert tensors[0].grad.isfinite().all()
    torch.testing.assert_close(mixed.detach().to(plain), plain, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_one_graph_for_the_compiler(name, monkeypatch):
    """Nothing in it breaks torch.compile's graph; the traced graph gives the same value and gradient.

    The tests' own checks of shapes, which the compiler cannot trace, are off.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch._dynamo.reset()  # what other losses have been compiled for does not count against this one
    loss, tensors = called(name)
    plain = loss(*tensors)
    (expected,) = torch.autograd.grad(plain, tensors[0])
    torch.manual_seed(0)
    traced = torch.compile(loss, backend="aot_eager", fullgraph=True)(*tensors)
    (found,) = torch.autograd.grad(traced, tensors[0])
    torch.testing.assert_close(traced, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_reductions_are_of_the_same_values(name):
    logits, targets = batch(dtype=torch.float64)
    values = CLASSIFICATION[name]("none")(logits, targets)
    assert values.shape == targets.shape
    torch.testing.assert_close(CLASSIFICATION[name]("sum")(logits, targets), values.sum())
    torch.testing.assert_close(CLASSIFICATION[name]("mean")(logits, targets), values.mean())
    for row in range(3):
        torch.testing.assert_close(
            CLASSIFICATION[name]("sum")(logits[row : row + 1], targets[row : row + 1]), values[row]
        )


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_an_unknown_reduction_is_refused(name):
    with pytest.raises(ValueError, match="reduction"):
        CLASSIFICATION[name]("median")


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_extreme_logits(name, size):
    """Right and wrong by a mile: value and gradient stay numbers, and right costs no more than wrong."""
    logits = torch.tensor([[size, 0.0, -size], [-size, 0.0, size]], requires_grad=True)
    values = CLASSIFICATION[name]("none")(logits, torch.tensor([0, 0]))
    values.sum().backward()
    assert values.isfinite().all()
    assert logits.grad.isfinite().all()
    assert values[0] <= values[1]


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_labels_out_of_range_and_logits_that_are_no_numbers_are_refused(name):
    loss = CLASSIFICATION[name]("mean")
    logits, targets = batch()
    with pytest.raises(ValueError, match="targets"):
        loss(logits, targets + 1)
    with pytest.raises(ValueError, match="targets"):
        loss(logits, targets[1:])
    with pytest.raises(ValueError, match="logits"):
        loss(logits.detach().clone().fill_(float("nan")), targets)


@pytest.mark.parametrize("name", sorted(DENSE))
def test_dense_predictions_are_many_examples(name):
    logits, targets = batch(5, 3, 2, 4, dtype=torch.float64)
    values = CLASSIFICATION[name]("none")(logits, targets)
    assert values.shape == targets.shape
    flat = CLASSIFICATION[name]("none")(logits.movedim(1, -1).reshape(-1, 5), targets.reshape(-1))
    torch.testing.assert_close(values.reshape(-1), flat)
