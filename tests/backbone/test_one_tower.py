"""Passes of one tower give what the ordinary pass gives, to the bit on a CPU, and leave the caller's tensors alone."""

import pytest
import torch
from tiny import generator, model, words

from mot_gen.backbone import lora
from mot_gen.backbone.one_tower import OneTower, Stack
from mot_gen.backbone.routing import all_to
from mot_gen.backbone.transformer import Backbone
from mot_gen.pipelines.engine.stream import Stream

BACKBONES = {
    "mot": {},
    "dense": {"kind": "dense"},
    "grouped heads, bias": {"kv_heads": 2, "qkv_bias": True},
    "no norm of heads, geglu": {"qk_norm": False, "activation": "gelu"},
    "tied attention": {"untied": ["ffn"], "norm_offset": 1.0},
}


def of_one_tower(net) -> list:
    backbone = net.backbone
    return Stack(backbone.blocks, backbone.residual, backbone.final_norm, all_to(0, 1, len(backbone.towers))).ways


@torch.no_grad()
def written(net) -> torch.Tensor:
    """Hidden states of a text of two rows, of a picture after it, and of the text that follows."""
    stream = Stream(net, [[words(3)], [words(5, 1)]], 20)
    seen = [stream.hidden]
    for token in range(3):
        stream.append([token, token + 1], modality="text")
        seen.append(stream.hidden)
    begin = net.vocabulary.begin["image"]
    stream.append([begin, begin], modality="text")
    span = stream.open("image", [(2, 3)] * 2, [True, True])
    seen.append(span(torch.randn(2, 6, 4, generator=generator(0)), torch.tensor(0.5)).flatten())
    span.close(torch.randn(2, 6, 4, generator=generator(1)), [True, False])
    seen.append(stream.hidden)
    return torch.cat([each.flatten() for each in seen])


@pytest.mark.parametrize(("name", "precision"), [*((name, "fp32") for name in BACKBONES), ("mot", "bf16")])
def test_passes_are_the_ordinary_ones(name, precision, monkeypatch):
    net = model(backbone=BACKBONES[name])
    net = net if precision == "fp32" else net.bfloat16()
    assert all(isinstance(way, OneTower) for way in of_one_tower(net))
    found = written(net)
    monkeypatch.setattr(Backbone, "_is_of_one_tower", lambda *given: False)
    assert torch.equal(found, written(net))


def test_adapters_and_half_storage_are_heeded(monkeypatch):
    adapted, halved = model(), model()
    lora.add(adapted, ["text", "image"], rank=2, alpha=4.0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".adapter." in name:
                parameter.add_(0.1)
    halved.enable_half_storage()
    found = written(adapted), written(halved)
    monkeypatch.setattr(Backbone, "_is_of_one_tower", lambda *given: False)
    assert torch.equal(found[0], written(adapted)) and torch.equal(found[1], written(halved))
    assert not torch.equal(found[0], written(model())) and not torch.equal(found[1], written(model()))


def test_a_block_that_is_watched_runs_as_it_always_does():
    net, called = model(), []
    net.backbone.blocks[1].qkv.register_forward_hook(lambda *given: called.append(1))
    assert [isinstance(way, OneTower) for way in of_one_tower(net)] == [True, False]
    assert len(written(net)) and called


@torch.no_grad()
def test_the_callers_tensor_stays():
    net = model()
    stream = Stream(net, [[words(3)]], 8)
    stream.append([1], modality="text")
    x = torch.randn(1, 1, 32, generator=generator(0))
    before, plan = x.clone(), stream._next.plan(0)
    net.backbone(x, plan, stream.cache)
    assert torch.equal(x, before)
