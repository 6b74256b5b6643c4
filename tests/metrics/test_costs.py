"""Memory of tensors against what is known by hand; steps that take turns; refusals."""

import time

import pytest
import torch
from torch import nn
from torch.func import jvp

from assay.metrics.costs import step_costs
from assay.metrics.memory import peak_memory, peak_tensors

MIB = 2**18  # floats


def test_what_a_graph_keeps_alive_is_counted_until_it_goes():
    """Four layers keep their inputs for the backward pass: the first is from before, three are new, and the output."""
    x = torch.ones(MIB, requires_grad=True)
    with peak_tensors() as kept:
        y = x
        for _ in range(4):
            y = y.sin()
    assert kept.extra == 4 * 2**20
    with torch.no_grad(), peak_tensors() as dropped:
        y = x
        for _ in range(4):
            y = y.sin()
    assert dropped.extra == 2 * 2**20  # one in, one out


def test_a_backward_pass_is_counted():
    x = torch.ones(MIB, requires_grad=True)
    with peak_tensors() as memory:
        x.sin().sum().backward()  # the sine goes as it is summed; then cos(x), and the gradient
    assert 2 * 2**20 <= memory.extra <= 3 * 2**20 + 8


def test_views_and_what_was_there_before_are_free():
    x = torch.ones(2, MIB)
    with peak_tensors() as memory:
        x[0].add_(1)
        x.view(-1)[3:].mul_(2)
        del x
    assert memory.extra == 0


def test_forward_mode_is_counted():
    """A primal and a tangent for each value: twice what the same passes take without."""
    x = torch.ones(MIB)
    with torch.no_grad(), peak_tensors() as once:
        x.sin().sin().sin()
    with torch.no_grad(), peak_tensors() as both:
        jvp(lambda v: v.sin().sin().sin(), (x,), (torch.ones(MIB),))
    assert once.extra == 2 * 2**20
    assert 4 * 2**20 <= both.extra <= 6 * 2**20


def test_depth_costs_backpropagation_and_not_blocks_on_their_own():
    """Where resident memory would show holes that grow with depth."""
    x = torch.ones(64, 256)

    def peak(depth, whole):
        net = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.Tanh()) for _ in range(depth)))
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        with peak_tensors() as memory:
            h = x
            for layer in net:
                h = layer(h) if whole else layer(h.detach())
                if not whole:
                    h.sum().backward()
            if whole:
                h.sum().backward()
        return memory.extra

    assert peak(8, whole=True) - peak(4, whole=True) >= 4 * 64 * 256 * 4
    assert peak(8, whole=False) == peak(4, whole=False)


def test_an_error_ends_the_count():
    with pytest.raises(RuntimeError, match="shape"), peak_tensors() as memory:
        torch.ones(MIB).view(MIB - 1)
    before = memory.extra
    torch.ones(4 * MIB)
    assert memory.extra == before == 2**20


def test_resident_memory_sees_at_least_that():
    with peak_memory() as resident:
        torch.ones(64 * MIB)
    assert resident.extra >= 60 * 2**20  # a few pages may have been there


def test_steps_take_turns():
    calls = []

    def step(name, spent):
        def run():
            calls.append(name)
            time.sleep(spent)
            return torch.ones(MIB if name == "a" else 2 * MIB)

        return run

    found = step_costs({"a": step("a", 0.0), "b": step("b", 0.02)}, repeats=3)
    assert calls[-6:] == ["a", "b"] * 3
    assert {name: each["peak_mib"] for name, each in found.items()} == {"a": 1, "b": 2}
    assert found["b"]["seconds"] >= 0.02


def test_repeats_must_be_positive():
    with pytest.raises(ValueError, match="repeats must be at least 1: got 0"):
        step_costs({}, repeats=0)
