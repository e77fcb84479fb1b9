"""ResidualAutoencoder: linear before it learns, shapes and posterior as declared; MuonAdamW: orthogonal steps."""

import pytest
import torch
from torch import nn

from mot_gen.errors import InputError
from mot_gen.tokenizers.image_latent import LatentImageTokenizer
from mot_gen.tokenizers.image_vq import VQImageTokenizer
from mot_gen.tokenizers.muon import MuonAdamW
from mot_gen.tokenizers.residual_autoencoder import FIRST_LOGVAR, ResidualAutoencoder


def network(**config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ResidualAutoencoder(
            **({"in_channels": 12, "latent_channels": 4, "block_out_channels": [16, 24]} | config)
        )


@torch.no_grad()
def test_untrained_it_is_linear_and_its_posterior_narrow():
    net = network()
    x, y = torch.randn(2, 3, 12, 8, 8)

    def through(x):
        return net.decode(net.encode(x).latent_dist.mode()).sample

    middle = through((x + y) / 2)
    assert middle.shape == x.shape and net.encode(x).latent_dist.mode().shape == (3, 4, 4, 4)
    assert torch.allclose(middle, (through(x) + through(y)) / 2, atol=1e-5)
    logvar = network().encode(x * 0.01).latent_dist.logvar
    assert (logvar - FIRST_LOGVAR).abs().max() < 0.5


@torch.no_grad()
def test_without_a_posterior_a_sample_is_the_mode():
    gaussian = network(posterior=False).encode(torch.randn(2, 12, 8, 8)).latent_dist
    assert torch.equal(gaussian.sample(), gaussian.mode()) and gaussian.mode().shape == (2, 4, 4, 4)
    gaussian = network().encode(torch.randn(2, 12, 8, 8)).latent_dist
    assert not torch.equal(gaussian.sample(), gaussian.mode())


def test_each_resolution_has_its_layers():
    def kernels(**config):
        return sum(isinstance(part, nn.Conv2d) for part in network(**config).modules())

    assert kernels(encoder_layers=0, decoder_layers=0) == 6  # first, last and one between resolutions, twice
    assert kernels(encoder_layers=1, decoder_layers=3) == 6 + 2 * 2 * (1 + 3)
    for wrong in ({"block_out_channels": []}, {"block_out_channels": [0]}, {"encoder_layers": -1}):
        with pytest.raises(InputError, match="no network has widths"):
            network(**wrong)


def test_its_folder_is_an_autoencoder_that_a_tokenizer_wraps(tmp_path):
    net = network()
    net.save_pretrained(tmp_path)
    direct = LatentImageTokenizer.from_autoencoder(net, 16, fold=2)
    assert LatentImageTokenizer.from_pretrained(tmp_path, 8).grid == (4, 4)
    direct.save_pretrained(tmp_path / "tokenizer")
    assert LatentImageTokenizer.from_pretrained(tmp_path / "tokenizer").fingerprint == direct.fingerprint


def test_a_vq_tokenizer_around_it_brings_a_codebook_or_levels(tmp_path):
    for given, size in (({"entries": 10}, 10), ({"levels": [3, 3, 2, 2]}, 36)):
        tokenizer = VQImageTokenizer.from_network(network(posterior=False), 16, fold=2, **given)
        assert tokenizer.modality.vocab_size == size and tokenizer.encode(torch.rand(3, 16, 16)).grid == (4, 4)
        tokenizer.save_pretrained(tmp_path / str(size))
        assert VQImageTokenizer.from_pretrained(tmp_path / str(size)).fingerprint == tokenizer.fingerprint
    with pytest.raises(InputError, match="vq_class must be one of VQModel, ResidualAutoencoder, got 'Nothing'"):
        VQImageTokenizer({}, 16, vq_class="Nothing")


def test_kernels_step_by_an_orthogonal_matrix_and_the_rest_as_adamw():
    torch.manual_seed(0)
    wide, first, bias = (nn.Parameter(torch.randn(*shape)) for shape in ((64, 80, 3, 3), (64, 3, 3, 3), (64,)))
    before = [p.detach().clone() for p in (wide, first, bias)]
    optimizer = MuonAdamW([wide, first, bias], lr=0.1, weight_decay=0.0)
    for p in (wide, first, bias):
        p.grad = torch.randn(p.shape)
    optimizer.step()
    moved = (wide.detach() - before[0]).view(64, -1)
    values = torch.linalg.svdvals(moved)
    one = 0.2 * 0.1 * 720**0.5  # of a step of root mean square 0.2 lr: Newton-Schulz comes within a third of it
    assert values.min() > 0.65 * one and values.max() < 1.35 * one
    assert (moved * wide.grad.view(64, -1)).sum() < 0
    for p, old in ((first, before[1]), (bias, before[2])):
        assert torch.allclose(p.detach() - old, -0.1 * p.grad.sign(), atol=1e-4)


def test_the_optimizers_state_goes_on_where_it_was():
    def stepped(state_after):
        torch.manual_seed(0)
        net = nn.Conv2d(64, 64, 3)
        optimizer = MuonAdamW(net.parameters(), lr=0.1, weight_decay=0.01)
        for step in range(3):
            if step == state_after:
                state = optimizer.state_dict()
                optimizer = MuonAdamW(net.parameters(), lr=0.1, weight_decay=0.01)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            net(torch.ones(1, 64, 5, 5)).square().sum().backward()
            optimizer.set_lr(0.1 / (step + 1))
            optimizer.step()
        return net.weight.detach()

    assert torch.equal(stepped(2), stepped(None))
