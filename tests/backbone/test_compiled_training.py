"""Blocks compiled for training: one or two programs serve batches of any mix, without a break."""

import copy
import os
import shutil

import pytest
import torch
from tiny import MODALITIES, generator, mixed, model, picture, words

from mot_gen.packing import pack

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def learned(net, batch):
    """Losses of a batch and the gradients."""
    net.zero_grad()
    noisy, targets = net.corrupt(batch, generator(0))
    losses = net(noisy, net.supervise(noisy, targets), dict.fromkeys(net.modality_names, 1.0))
    losses.total.backward()
    return losses.total.detach(), {name: p.grad for name, p in net.named_parameters()}


def batches(count):
    """Of one size, whose modalities have other numbers of tokens each time."""
    for number in range(count):
        samples = [words(3 + number % 7, number), picture(2, 2 + number % 3, number)]
        yield pack([samples, [words(4 + number % 5, number)], *mixed(2)], MODALITIES, 64, rows=2)


@pytest.mark.parametrize("kind", ["mot", "dense"])
def test_at_most_two_programs_serve_all_batches(kind):
    eager = model(backbone={"kind": kind, "layers": 1}).train()
    compiled, programs = copy.deepcopy(eager), []

    def backend(graph, inputs):
        programs.append(graph)
        return graph.forward

    compiled.compile_repeated_blocks(backend=backend, fullgraph=True)
    for number, batch in enumerate(batches(20)):
        if number % 5:  # the others show whether programs are made anew
            compiled(compiled.corrupt(batch)[0]).logits.sum().backward()
            continue
        (total, found), (wanted_total, wanted) = learned(compiled, batch), learned(eager, batch)
        torch.testing.assert_close(total, wanted_total, **CLOSE)
        torch.testing.assert_close(found, wanted, **CLOSE)
    assert len(programs) <= 2


@pytest.mark.compiler
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="Inductor needs a C++ compiler on a CPU")
def test_inductors_own_program_learns_alike(monkeypatch, tmp_path):
    """Code is generated, compiled and run, forward and backward; the dense block is the smallest program."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager = model(backbone={"kind": "dense", "layers": 1}).train()
    compiled, batch = copy.deepcopy(eager), pack(mixed(2), MODALITIES, 32)
    compiled.compile_repeated_blocks(fullgraph=True)
    (total, found), (wanted_total, wanted) = learned(compiled, batch), learned(eager, batch)
    torch.testing.assert_close(total, wanted_total, **CLOSE)
    torch.testing.assert_close(found, wanted, **CLOSE)
    assert list(tmp_path.rglob("*.cpp"))
