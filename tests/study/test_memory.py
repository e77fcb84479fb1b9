"""Memory: what a backbone says to keep is what autograd keeps; the peak of a real training step is as predicted."""

from pathlib import Path

import pytest
import torch
from ranks import launch
from tiny import MODALITIES, generator, mixed

from benchmarks.memory import measure
from mot_gen.backbone import PRESETS, load
from mot_gen.packing import pack

READINGS = [(kind, {}) for kind in PRESETS if kind not in ("mamba", "mom")]
READINGS += [(kind, {"bidirectional": reading}) for kind in ("mamba", "mom") for reading in ("causal", "two_pass")]


def options(kind, dim, layers):
    shape = {"dim": dim, "layers": layers}
    return shape if kind in ("mamba", "mom") else {**shape, "heads": 4, "multiple_of": dim}


@pytest.mark.parametrize(("kind", "more"), READINGS, ids=str)
def test_activations_are_what_autograd_keeps(kind, more):
    """Every storage once, parameters aside."""
    module, config = load(kind, options(kind, 64, 2) | more)
    backbone = module.Backbone(config, MODALITIES)
    layout = pack(mixed(32), MODALITIES, 128).layout
    x = torch.randn(*layout.shape, 64, generator=generator(0), requires_grad=True)
    own = {p.untyped_storage().data_ptr() for p in [x, *backbone.parameters()]}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # with the tensor, lest its place be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = backbone(x, layout)
    assert y.requires_grad
    found = sum(size for size, _ in kept.values()) / 4
    assert backbone.activations(layout) == pytest.approx(found, rel=0.12)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="a process's peak is read from Linux's /proc")
def test_the_peak_of_a_training_step_is_as_predicted():
    """In a process whose heap has no holes of other tests, behind a small step that loads the libraries."""
    ((predicted, peak),) = launch(1, second_step)
    assert peak == pytest.approx(predicted, rel=0.15)


def second_step(rank: int) -> tuple[int, int]:
    measure("mot", 64, 1, 1)
    return measure("mot", 256, 4, 8)
