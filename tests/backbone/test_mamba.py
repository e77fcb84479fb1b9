"""Mamba: the scan to its recurrence, to Hugging Face's model with copied weights, ties, FLOPs, and what it refuses."""

import pytest
import torch
from tiny import MODALITIES, mixed, words
from tiny_backbones import build, documents_of, inputs

from mot_gen.backbone import load
from mot_gen.backbone.recurrent import selective_scan
from mot_gen.backbone.recurrent.selective_scan import final_state, scan_by_steps
from mot_gen.errors import InputError
from mot_gen.packing import pack

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def scanned(length=70, rows=2, channels=5, states=4, dtype=torch.float64):
    """Arguments of a scan: u, delta, A, B, C with gradients; starts of documents; a state."""
    torch.manual_seed(0)
    shapes = [(length, rows, channels)] * 2 + [(states, channels)] + [(length, rows, states)] * 2
    u, delta, A, B, C = (torch.randn(shape, dtype=dtype) for shape in shapes)
    start = torch.rand(length, rows) < 0.1
    state = torch.randn(rows, states, channels, dtype=dtype)
    return [t.requires_grad_() for t in (u, delta.exp(), -A.exp(), B, C)], start, state


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_scan_is_the_recurrence_forward_and_backward(chunk, dtype, monkeypatch):
    monkeypatch.setattr(selective_scan, "_chunks", lambda u, A: chunks(len(u), chunk))
    given, start, state = scanned(dtype=dtype)
    found = []
    for scan in (selective_scan.selective_scan, scan_by_steps):
        y = scan(*given, start, state)
        found.append((y, *torch.autograd.grad(y.tanh().sum(), given)))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, **(CLOSE if dtype == torch.float32 else {}))


def chunks(length, size):
    return [slice(first, min(first + size, length)) for first in range(0, length, size)]


def test_a_long_strong_decay_neither_overflows_nor_drifts():
    """Where sums of logarithms would: steps whose decays multiply to exp(-10^5)."""
    (u, _, A, B, C), start, state = scanned(length=1024, dtype=torch.float32)
    delta = torch.full_like(u, 30.0)
    y = selective_scan.selective_scan(u, delta, A, B, C, start, state)
    torch.testing.assert_close(y, scan_by_steps(u, delta, A, B, C, start, state), **CLOSE)


def test_a_constant_input_has_a_closed_form():
    """h_t = (1 - a^t) / (1 - a) delta for u = B = C = 1."""
    one, a = torch.ones(50, 1, 1, dtype=torch.float64), 0.9
    delta = torch.full_like(one, 0.5)
    A = torch.tensor([[a]], dtype=torch.float64).log() / 0.5
    start = torch.zeros(50, 1, dtype=torch.bool)
    y = selective_scan.selective_scan(one, delta, A, one, one, start, torch.zeros(1, 1, 1, dtype=torch.float64))
    want = 0.5 * (1 - a ** torch.arange(1.0, 51, dtype=torch.float64)) / (1 - a)
    torch.testing.assert_close(y[:, 0, 0], want)


def test_a_kernel_without_documents_is_led_past_their_bounds():
    """The scan by steps stands in for the CUDA package's: given no starts, it finds those of the rewritten steps."""

    def kernel(u, delta, A, B, C):
        u, delta, B, C = (t.permute(2, 0, 1) for t in (u, delta, B, C))
        never, zero = torch.zeros(u.shape[:2], dtype=torch.bool), u.new_zeros(u.shape[1], *A.t().shape)
        return scan_by_steps(u, delta, A.t(), B, C, never, zero).permute(1, 2, 0)

    given, start, state = scanned()
    found = []
    for y in (
        selective_scan.scan_by_kernel(kernel, *given, start),
        scan_by_steps(*given, start, torch.zeros_like(state)),
    ):
        found.append((y, *torch.autograd.grad(y.tanh().sum(), given)))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_cuda_package_gives_the_same_scan():
    pytest.importorskip("mamba_ssm", reason="the CUDA kernel is that of the package mamba_ssm")
    given, start, state = scanned(dtype=torch.float32)
    want = scan_by_steps(*given, start, torch.zeros_like(state))
    on_gpu = [t.detach().cuda().requires_grad_() for t in given]
    y = selective_scan.selective_scan(*on_gpu, start.cuda())
    torch.testing.assert_close(y.cpu(), want, **CLOSE)
    wanted = torch.autograd.grad(want.tanh().sum(), given)
    for a, b in zip(torch.autograd.grad(y.tanh().sum(), on_gpu), wanted):
        torch.testing.assert_close(a.cpu(), b, atol=1e-4, rtol=1e-3)


def test_the_published_sizes_have_their_parameters():
    """mamba-130m: 129,135,360 parameters, 50,280 embeddings of 768 among them."""
    with torch.device("meta"):
        module, config = load("mamba", {"size": "130M"})
        backbone = module.Backbone(config, MODALITIES[::2])
    assert sum(p.numel() for p in backbone.parameters()) == 129_135_360 - 50_280 * 768


@torch.no_grad()
def test_the_final_state_goes_on():
    (u, delta, A, B, C), start, state = scanned()
    whole = scan_by_steps(u, delta, A, B, C, start, state)
    middle = final_state(u[:33], delta[:33], A, B[:33], start[:33], state)
    rest = scan_by_steps(u[33:], delta[33:], A, B[33:], C[33:], start[33:], middle)
    torch.testing.assert_close(rest, whole[33:])


@torch.no_grad()
def test_parity_with_hugging_face():
    import transformers

    torch.manual_seed(0)
    theirs = transformers.MambaModel(
        transformers.MambaConfig(vocab_size=60, hidden_size=32, state_size=16, num_hidden_layers=2, time_step_rank=2)
    ).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape))
    module, config = load("mamba", {"dim": 32, "layers": 2, "bidirectional": "causal"})
    ours = module.Backbone(config, MODALITIES)
    for block, layer in zip(ours.blocks, theirs.layers):
        mixer = layer.mixer
        for name in ("in_proj", "x_proj", "dt_proj", "out_proj"):
            getattr(block, name).weight.copy_(getattr(mixer, name).weight[None])
        block.dt_bias.copy_(mixer.dt_proj.bias[None])
        block.conv.copy_(mixer.conv1d.weight[:, 0].T)
        block.conv_bias.copy_(mixer.conv1d.bias)
        block.A_log.copy_(mixer.A_log.T)
        block.D.copy_(mixer.D)
        block.norm.weight.copy_(layer.norm.weight[None])
    ours.final_norm.weight.copy_(theirs.norm_f.weight[None])
    batch = pack([[words(38)]], MODALITIES, 40)
    embedded = theirs.embeddings(batch.ids)
    want = theirs(inputs_embeds=embedded, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours(embedded, batch.layout), want, **CLOSE)


@pytest.mark.parametrize("reading", ["causal", "two_pass"])
@torch.no_grad()
def test_towers_with_equal_weights_are_mamba(reading):
    tied, untied = build("mamba", bidirectional=reading), build("mom", bidirectional=reading)
    for name, parameter in untied.named_parameters():
        parameter.copy_(tied.get_parameter(name).expand_as(parameter))
    layout = pack(mixed(4), MODALITIES, 48).layout
    x = inputs(*layout.shape)
    torch.testing.assert_close(untied(x, layout), tied(x, layout), **CLOSE)
    untied.blocks[0].x_proj.weight[1].mul_(1.5)
    assert not torch.allclose(untied(x, layout), tied(x, layout), atol=1e-3)


@pytest.mark.parametrize("part", ["in_proj", "x_proj", "dt_proj", "out_proj"])
def test_parts_are_untied_one_by_one(part):
    owned = {name.split(".")[2] for name in build("mom", untied=[part]).untied_parameters()}
    assert owned == ({part, "dt_bias"} if part == "dt_proj" else {part})


@torch.no_grad()
def test_a_causal_reading_lets_no_token_of_a_picture_see_a_later_one():
    backbone, layout = build("mom", bidirectional="causal"), documents_of(mixed(1)[0])
    x, other = inputs(*layout.shape), inputs(*layout.shape, seed=1)
    for first in range(1, layout.shape[1]):
        late = torch.arange(layout.shape[1]) >= first
        after = backbone(torch.where(late[:, None], other, x), layout)
        torch.testing.assert_close(after[:, ~late], backbone(x, layout)[:, ~late], **CLOSE)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"bidirectional": "refuse"}, "tokens of 'image' see later ones; make the modality causal, or say"),
        ({"bidirectional": "both"}, "backbone.bidirectional: 'both'"),
        ({"untied": ["conv"]}, "backbone.untied: 'conv'"),
        ({"size": "130B"}, "backbone.size: '130B'.*did you mean '130M'"),
        ({"dt_rank": 0}, "backbone.dt_rank: must be a positive integer, got 0"),
        ({"norm_eps": float("nan")}, "backbone.norm_eps: must be finite and at least 0, got nan"),
        ({"d_state": 0}, "backbone.d_state: must be a positive integer, got 0"),
    ],
)
def test_bad_options_name_their_field(options, complaint):
    with pytest.raises(InputError, match=complaint):
        build("mom", **options)
