"""The counter to torch's own, for every backbone and both patch layers, to 1%; and parameters by module."""

import pytest
import torch
from tiny import IMAGE, MODALITIES, TEXT, generator, mixed, model, picture, words
from torch.utils.flop_counter import FlopCounterMode

from mot_gen.backbone import PRESETS, routing
from mot_gen.backbone.mixers import mamba
from mot_gen.flops import by_module, forward_flops
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack

STATEMENTS = {
    **{kind: {"kind": kind} for kind in PRESETS},
    "token choice": {"kind": "moe4x", "router": "token_choice", "top_k": 2},
    "widths": {"kind": "mot", "widths": {"image": 16}},
    "grouped-query": {"kind": "mot", "kv_heads": 2},
}


def unseen(backbone, layout):
    """What torch does not count: attention on a CPU; of a scan, all but the product with C; its convolution."""
    (rows, length), flops = layout.shape, 0
    for block in backbone.blocks:
        mixer = block.parts.mixer
        if isinstance(mixer, mamba.Mixer):
            flops += rows * length * block.channels * (2 * mixer.d_conv + 5 * mixer.d_state)
        else:
            flops += 4 * rows * length**2 * block.heads * block.head_dim
    return flops


def counted(built, batch, monkeypatch):
    """FLOPs that torch counts; it knows no grouped product, so the towers are multiplied one after the other."""
    monkeypatch.setattr(routing, "_has_grouped_mm", lambda x, weight: False)
    noisy, _ = built.corrupt(batch, generator(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        built(noisy)
    return counter.get_total_flops()


@pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS)
def test_every_backbones_flops_are_those_that_torch_counts(statement, monkeypatch):
    if statement["kind"] in ("mamba", "mom"):
        backbone = {"dim": 32, "layers": 2, "bidirectional": "causal", **statement}
        built = MultimodalModel([vars(m) for m in MODALITIES], backbone).eval()
    else:
        built = model(backbone=statement)
    batch = pack(mixed(8), MODALITIES, 64)
    seen = counted(built, batch, monkeypatch) + unseen(built.backbone, batch.layout)
    assert forward_flops(built, batch) == pytest.approx(seen, rel=0.01)


@pytest.mark.parametrize("options", [{}, {"patch_size": 4, "layers": 2}], ids=["2x2", "4x4"])
def test_a_unets_flops_are_those_that_torch_counts(options, monkeypatch):
    image = type(IMAGE)("image", channels=16, bidirectional=True, objective="flow")
    layers = {"image": {"kind": "unet", "width": 8, **options}}
    built = model([TEXT, image], patch_layers=layers)
    batch = pack([[words(3), picture(2, 3, channels=16)], [picture(3, 3, channels=16)]], [TEXT, image], 32)
    seen = counted(built, batch, monkeypatch) + unseen(built.backbone, batch.layout)
    assert forward_flops(built, batch) == pytest.approx(seen, rel=0.01)
    parts = by_module(built, batch)
    assert list(parts) == ["backbone", "head", "image patches"] and sum(parts.values()) == forward_flops(built, batch)
    assert parts["image patches"] > parts["head"]
