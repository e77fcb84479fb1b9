"""The counter to torch's own, for every backbone and both patch layers, to 1%; and parameters by module."""

import pytest
import torch
from tiny import IMAGE, MODALITIES, TEXT, generator, mixed, model, picture, words
from tiny_backbones import STATED
from torch.utils.flop_counter import FlopCounterMode

from mot_gen.backbone import PRESETS, attention, grouped_products, parts
from mot_gen.backbone.feed_forwards import continued_fraction
from mot_gen.backbone.mixers import mamba as mamba_mixer
from mot_gen.backbone.recurrent import delta_rule, mamba_scan
from mot_gen.backbone.recurrent.selective_scan import selective_scan
from mot_gen.flops import by_module, forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack

STATEMENTS = {
    **{kind: {"kind": kind} for kind in PRESETS},
    "token choice": {"kind": "moe4x", "router": "token_choice", "top_k": 2},
    "widths": {"kind": "mot", "widths": {"image": 16}},
    "grouped-query": {"kind": "mot", "kv_heads": 2},
}


def counted(built, batch, monkeypatch):
    """FLOPs that torch counts; it knows no grouped product, so the towers are multiplied one after the other. What it
    does not count is added: attention on a CPU; of a scan, all but the product with C; its convolution; and products
    that are written element by element."""
    unseen = []

    def attend(q, k, v, mask):
        unseen.append(4 * q[..., 0].numel() * k.shape[2] * q.shape[3])
        return attention.attend(q, k, v, mask)

    def scan(u, delta, A, *others):
        unseen.append(u.numel() * 5 * len(A))
        return selective_scan(u, delta, A, *others)

    def convolve(line, document, weight, bias):
        found = own_convolve(line, document, weight, bias)
        unseen.append(2 * found.numel() * len(weight))
        return found

    def solve(among_keys, wanted):
        unseen.append(wanted.numel() * among_keys.shape[-1])
        return own_solve(among_keys, wanted)

    def fraction(steps, least):
        unseen.append(2 * (len(steps) + 1) * steps[0].numel())
        return own_fraction(steps, least)

    own_solve, own_fraction = delta_rule.solve, continued_fraction.fraction
    own_convolve = mamba_scan.convolve
    monkeypatch.setattr(delta_rule, "solve", solve)
    monkeypatch.setattr(continued_fraction, "fraction", fraction)
    monkeypatch.setattr(mamba_scan, "convolve", convolve)
    monkeypatch.setattr(grouped_products, "_has_grouped_mm", lambda x, weight: False)
    monkeypatch.setattr(parts, "attend", attend)
    monkeypatch.setattr(mamba_scan, "_scan", scan)
    monkeypatch.setattr(mamba_mixer, "convolve", convolve)
    noisy, _ = built.corrupt(batch, generator(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(noisy)
    return counter.get_total_flops() + sum(unseen)


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_every_backbones_flops_are_those_that_torch_counts(statement, monkeypatch):
    if statement["kind"] in ("mamba", "mom"):
        backbone = {"dim": 32, "layers": 2, "bidirectional": "causal", **statement}
        built = MultimodalModel([vars(m) for m in MODALITIES], backbone).eval()
    else:
        built = model(backbone=statement)
    batch = pack(mixed(8), MODALITIES, 64)
    seen = counted(built, batch, monkeypatch)
    assert forward_flops(built, batch) == pytest.approx(seen, rel=0.01)


@pytest.mark.parametrize("kind, options", [STATED[name] for name in STATED], ids=list(STATED))
def test_every_parts_executed_flops_are_those_that_torch_counts(kind, options, monkeypatch):
    """And a kernel that skips what a part leaves out takes no more."""
    built = model(backbone={"kind": kind, **options})
    for name, parameter in built.named_parameters():
        if ".choice." in name:  # which blocks run is counted as if all pictures ran the first
            parameter.data.zero_()
    batch, backbone = pack(mixed(8), MODALITIES, 64), built.backbone
    seen = counted(built, batch, monkeypatch)
    skipping, executed = backbone.flops(batch.layout), backbone.executed_flops(batch.layout)
    assert forward_flops(built, batch) - skipping + executed == pytest.approx(seen, rel=0.01)
    assert 0.3 * executed < skipping <= executed


@pytest.mark.parametrize("options", [{}, {"patch_size": 4, "layers": 2}], ids=["2x2", "4x4"])
def test_a_unets_flops_are_those_that_torch_counts(options, monkeypatch):
    image = type(IMAGE)("image", channels=16, bidirectional=True, objective="flow")
    layers = {"image": {"kind": "unet", "width": 8, **options}}
    built = model([TEXT, image], patch_layers=layers)
    batch = pack([[words(3), picture(2, 3, channels=16)], [picture(3, 3, channels=16)]], [TEXT, image], 32)
    seen = counted(built, batch, monkeypatch)
    assert forward_flops(built, batch) == pytest.approx(seen, rel=0.01)
    parts = by_module(built, batch)
    assert list(parts) == ["backbone", "head", "image patches"] and sum(parts.values()) == forward_flops(built, batch)
    assert parts["image patches"] > parts["head"]
