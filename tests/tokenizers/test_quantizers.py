"""The quantisers against brute force, against diffusers, and by counting."""

import pytest
import torch
from diffusers.models.autoencoders.vae import VectorQuantizer

from mot_gen.errors import InputError
from mot_gen.tokenizers.quantizers import FiniteScalar, NearestEntry, straight_through


def test_the_nearest_entry_is_the_nearest():
    quantizer = NearestEntry(50, 3)
    torch.nn.init.normal_(quantizer.embedding.weight)
    z = torch.randn(2, 4, 5, 3)
    every = (z[..., None, :] - quantizer.embedding.weight).square().sum(-1)
    ids = quantizer.ids(z)
    assert torch.equal(ids, every.argmin(-1)) and ids.dtype == torch.int64
    assert torch.equal(quantizer.entries(ids), quantizer.embedding.weight[ids])
    assert torch.equal(quantizer.ids(quantizer.entries(ids)), ids)


def test_it_agrees_with_diffusers_and_takes_its_weights():
    theirs = VectorQuantizer(32, 4, beta=0.25, remap=None, sane_index_shape=False)
    torch.nn.init.normal_(theirs.embedding.weight)
    ours = NearestEntry(32, 4)
    ours.load_state_dict(theirs.state_dict())
    z = torch.randn(2, 4, 6, 5)
    entries, _, (_, _, ids) = theirs(z)
    assert torch.equal(ours.ids(z.movedim(1, -1)).flatten(), ids)
    assert torch.allclose(ours.entries(ours.ids(z.movedim(1, -1))).movedim(-1, 1), entries, atol=1e-6)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [2], [3, 2], [7, 4]])
def test_finite_scalars_reach_every_entry_and_only_those(levels):
    quantizer = FiniteScalar(levels)
    ids = torch.arange(quantizer.size)
    entries = quantizer.entries(ids)
    assert len(entries.unique(dim=0)) == quantizer.size and entries.abs().max() <= 1
    for i, count in enumerate(levels):
        steps = entries[:, i].unique()
        assert len(steps) == count and torch.allclose(steps.diff(), torch.tensor(1.0 / (count // 2)))
    values = torch.linspace(-4, 4, 33)  # finer than any level
    reached = quantizer.ids(torch.cartesian_prod(*[values] * len(levels)).view(-1, len(levels)))
    assert reached.min() == 0 and len(reached.unique()) == quantizer.size and reached.max() == quantizer.size - 1


def test_a_finite_scalar_is_rounded_to_the_nearest_level():
    quantizer = FiniteScalar([8, 5, 5, 2])
    z = torch.randn(1000, 4)
    half = torch.tensor([8, 5, 5, 2]) // 2
    error = (quantizer.entries(quantizer.ids(z)) - quantizer.bounded(z)) * half
    assert error.abs().max() <= 0.5 + 1e-5
    assert torch.equal(quantizer.ids(torch.full((4,), 100.0)), torch.tensor(quantizer.size - 1))
    assert torch.equal(quantizer.ids(torch.full((4,), -100.0)), torch.tensor(0))
    assert quantizer.bounded(torch.zeros(4)).abs().max() < 1e-6


def test_the_gradient_passes_straight_through():
    z = torch.randn(5, 3, requires_grad=True)
    entry = torch.randn(5, 3)
    out = straight_through(z, entry)
    assert torch.allclose(out, entry)
    out.square().sum().backward()
    assert torch.allclose(z.grad, 2 * entry)


@pytest.mark.parametrize("levels", [[], [1], [8, 0]])
def test_levels_below_two_are_refused(levels):
    with pytest.raises(InputError, match="at least 2"):
        FiniteScalar(levels)
