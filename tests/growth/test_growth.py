"""Models made of trained ones: each begins as what it is made from, by the claim of its file; and the command."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import IMAGE, MODALITIES, SPEECH, TEXT, clean, generator, mixed, model

from mot_gen.backbone.width_and_experts import choose, chosen
from mot_gen.commands.main import main
from mot_gen.errors import InputError
from mot_gen.growth import (
    base,
    deeper,
    expanded,
    fused,
    joined,
    moefied,
    pruned,
    restructured,
    shallower,
    side_by_side,
    sliced,
    spawned,
    tied,
)
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@torch.no_grad()
def outputs(built):
    """Logits and latents of one batch."""
    found = built(clean(pack(mixed(4), MODALITIES, 48), 0.5))
    return [found.logits, *found.latents.values()]


def same(one, other, **close):
    for a, b in zip(outputs(one), outputs(other)):
        torch.testing.assert_close(a, b, **(close or CLOSE))


def differ(one, other):
    return any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(outputs(one), outputs(other)))


@pytest.mark.parametrize("kind", ["mot", "dense"])
def test_experts_found_in_a_dense_feed_forward_are_it(kind):
    dense = model(backbone={"kind": kind})
    grown = moefied.Growth(experts=4, used=4, every=1).grow(dense)
    same(grown, dense)
    assert [block.routed for block in moefied.Growth(experts=4, used=2).grow(dense).backbone.blocks] == [False, True]
    assert differ(moefied.Growth(experts=4, used=1, every=1).grow(dense), dense)


def test_clusters_are_even_and_find_what_belongs_together():
    generator_ = generator(0)
    centres = torch.eye(4, 8)
    rows = centres.repeat_interleave(6, 0) * (1 + torch.rand(24, 1, generator=generator_))
    order = torch.randperm(24, generator=generator_)
    found = moefied.clusters(rows[order] + 0.01 * torch.randn(24, 8, generator=generator_), 4)
    assert sorted(found.flatten().tolist()) == list(range(24))
    assert all(len({int(order[row]) // 6 for row in cluster}) == 1 for cluster in found)


def test_a_shared_expert_and_all_routed_ones_are_the_dense_feed_forward():
    """The most important channels are shared; the others are dealt out in turn."""
    dense = model(backbone={"kind": "dense", "ffn_dim": 64})
    batch = dense.corrupt(pack(mixed(4), MODALITIES, 48), generator(0))
    important = restructured.importance(dense, [batch])
    assert all((each > 0).all() for each in important) and dense.backbone.blocks[0].qkv.weight.grad is None
    for grown in (
        restructured.Growth(experts=12, top_k=12).grow(dense),
        restructured.Growth(experts=12, top_k=12).by(dense, important),
    ):
        same(grown, dense)
    best = important[0][0].argmax()
    shared = grown.backbone.blocks[0].ffn.shared.gate_up.weight[0, 0]
    assert torch.equal(shared, dense.backbone.blocks[0].ffn.gate_up.weight[0, best])
    sparse = restructured.Growth().grow(dense)
    layout = pack(mixed(4), MODALITIES, 48).layout
    spared = 3 * 2 * 32 * (64 * 10 // 16) * 2 * layout.modality.numel()
    assert (
        dense.backbone.flops(layout) - sparse.backbone.flops(layout)
        == spared - 2 * 2 * 32 * 12 * layout.modality.numel()
    )
    with pytest.raises(InputError, match="one for all towers"):
        restructured.Growth().grow(model(backbone={"ffn_dim": 64}))


@pytest.mark.parametrize("top_k", [1, 3])
def test_spawned_experts_begin_as_their_parent(top_k):
    dense = model()
    same(spawned.Growth(experts=3, top_k=top_k).grow(dense), dense)
    masked = spawned.Growth(experts=3, masked=0.5).grow(dense)
    down = masked.backbone.blocks[0].ffn.feed_forward.down.weight
    assert differ(masked, dense) and not torch.equal(down[0], down[1])


def test_an_expert_that_no_token_takes_may_go():
    """Of three experts the first two have opposite logits and the third has 0, which is never the largest."""
    built = model(backbone={"experts": 3, "router": {"kind": "token_choice", "weight": "one"}})
    with torch.no_grad():
        for block in built.backbone.blocks:
            block.ffn.router[1::3] = -block.ffn.router[0::3]
            block.ffn.router[2::3] = 0
    batches = [clean(pack(mixed(4), MODALITIES, 48), 0.5)]
    counts = pruned.usage(built, batches)
    tokens = batches[0].layout.modality.numel()
    assert all(sum(sum(pool) for pool in layer) == tokens for layer in counts)
    assert all(pool[2] == 0 for layer in counts for pool in layer)
    same(pruned.Growth(keep=[0, 1]).grow(built), built)
    assert differ(pruned.Growth(keep=[0, 2]).grow(built), built)
    alone = pruned.Growth(keep=[0]).grow(built)
    assert not any(block.routed for block in alone.backbone.blocks)


def test_all_that_a_model_is_made_of_is_kept():
    """Outside of the blocks too: scaled embeddings (Gemma), and layers of a modality that is apart (Janus)."""
    speech = replace(SPEECH, apart=True)
    built = model([TEXT, IMAGE, speech], embedding_scale=3.0, token_layers={"speech": {"width": 4}}, context=48)
    grown = deeper.Growth(layers=1).grow(built)
    batch = clean(pack(mixed(4), built.modalities, 48), 0.5)
    assert torch.equal(grown(batch).logits, built(batch).logits)
    assert grown.config.embedding_scale == 3 and grown.config.context == 48


def test_a_model_joined_with_itself_is_itself():
    built = model(backbone={"experts": 2, "router": "token_choice", "top_k": 1})
    both = joined.Growth().grow(built, built)
    assert both.backbone.blocks[0].experts == [4, 4, 4]
    same(both, built)


def test_a_stack_on_a_line_has_any_depth():
    built = model(backbone={"layers": 3})
    first = dict(built.backbone.blocks[0].named_parameters())
    step = {name: 0.1 * torch.randn(p.shape, generator=generator(1)) for name, p in first.items()}
    with torch.no_grad():
        base = {name: p.clone() for name, p in first.items()}
        for number, block in enumerate(built.backbone.blocks):
            for name, p in block.named_parameters():
                p.copy_(base[name] + (number + 1) / 3 * step[name])
    same(expanded.Growth(layers=3).grow(built), built)
    six = expanded.Growth(layers=6).grow(built)
    name = "ffn.down.weight"
    torch.testing.assert_close(six.backbone.blocks[1].get_parameter(name), built.backbone.blocks[0].get_parameter(name))
    flat, slope = expanded.line_through(torch.ones(4, 2))
    assert flat.tolist() == [1, 1] and slope.tolist() == [0, 0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"feed_forward": "continued_fraction"},
        {"feed_forward": {"kind": "domains", "domains": ["books"]}},
        {"feed_forward": {"kind": "adapted", "adapter": "routed"}, "residual": "dual"},
        {"experts": 2, "router": "token_choice", "shared_experts": 1, "norm": "output"},
        {"mixer": ["modules", "linear"]},
        {"mixer": "mixed_heads", "feed_forward": "nested"},
        {"widths": {"image": 16}},
    ],
    ids=str,
)
def test_further_layers_change_nothing_at_first(options):
    built = model(backbone=options)
    grown = deeper.Growth(layers=2).grow(built)
    assert len(grown.backbone.blocks) == 4
    for a, b in zip(outputs(grown), outputs(built)):
        assert torch.equal(a, b)
    with pytest.raises(InputError, match="what a layer skips follows from the depth"):
        deeper.Growth(layers=1).grow(model(backbone={"depth": "token_skip"}))
    with pytest.raises(InputError, match="the mixer of layer 3 has no projection"):
        deeper.Growth(layers=2).grow(model(backbone={"mixer": ["attention", "pool"]}))


@pytest.mark.parametrize(
    "options",
    [
        {"kv_heads": 2},
        {"bias": "gaussian"},
        {"head_choice": {"kind": "routed", "top_k": 2}},
        {"mixer": ["linear", "stick_breaking"]},
        {"mixer": ["selected", "modules"]},
        {"mixer": ["adapted", {"kind": "mixed_heads", "mixing": "independent"}]},
    ],
    ids=str,
)
def test_a_model_that_is_moved_towards_another_computes_what_it_did(options):
    """Without a share of the first model the average is the second, its channels and heads in another order."""
    first, second = (model(seed=seed, backbone=options) for seed in (0, 1))
    moved = fused.Growth(share=0.0).grow(first, second)
    same(moved, second)
    assert not torch.equal(moved.backbone.blocks[0].ffn.down.weight, second.backbone.blocks[0].ffn.down.weight)


def test_a_permuted_twin_fuses_to_itself():
    built = model(backbone={"kv_heads": 2})
    twin = base.rebuild(built)
    with torch.no_grad():
        for block in twin.backbone.blocks:
            order = torch.randperm(block.ffn.down.weight.shape[2], generator=generator(0))
            gate, up = block.ffn.gate_up.weight.chunk(2, 1)
            block.ffn.gate_up.weight.copy_(torch.cat([gate[:, order], up[:, order]], 1))
            block.ffn.down.weight.copy_(block.ffn.down.weight[..., order])
            heads = fused._Heads(block)
            heads.take(torch.tensor([1, 0]))
            heads.q[0], heads.out[0] = heads.q[0].flip(0), heads.out[0].flip(0)
            channels = torch.randperm(8, generator=generator(1))
            heads.v[1], heads.out[1] = heads.v[1][channels], heads.out[1][:, channels]
            heads.write(block)
    same(twin, built)
    assert not torch.equal(twin.backbone.blocks[0].qkv.weight, built.backbone.blocks[0].qkv.weight)
    joint = fused.Growth().grow(built, twin)
    same(joint, built)
    torch.testing.assert_close(joint.backbone.blocks[0].qkv.weight, built.backbone.blocks[0].qkv.weight)


def test_two_models_side_by_side_say_the_mean_of_both(tmp_path):
    """Logits and predicted latents; saved and loaded; at the cost of both."""
    options = {"kv_heads": 2, "mixer": ["attention", "modules"]}
    first, second = (model(seed=seed, backbone=options) for seed in (0, 1))
    both = side_by_side.Growth().grow(first, second)
    both.save_pretrained(tmp_path)
    for one, two, mean in zip(outputs(first), outputs(second), outputs(MultimodalModel.from_pretrained(tmp_path))):
        torch.testing.assert_close(mean, (one + two) / 2, **CLOSE)
    layout = pack(mixed(4), MODALITIES, 48).layout
    assert both.backbone.flops(layout) == first.backbone.flops(layout) + second.backbone.flops(layout)
    with pytest.raises(InputError, match="picture layers of image must be linear"):
        grid = [TEXT, replace(IMAGE, position="grid")]
        side_by_side.Growth().grow(model(grid), model(grid))
    with pytest.raises(InputError, match="weights='disk'"):
        both.backbone.on_disk = True


@torch.no_grad()
def towers_alike(dense):
    """A Mixture-of-Transformers of which each tower is the dense model, its hidden channels in another order."""
    built = base.rebuild(dense, kind="mot", untied=None)
    values = dict(dense.named_parameters())
    for name, parameter in built.named_parameters():
        parameter.copy_(values[name].expand(parameter.shape))
    for block in built.backbone.blocks:
        for tower in range(1, len(built.backbone.towers)):
            order = torch.randperm(block.ffn.down.weight.shape[2], generator=generator(tower))
            gate, up = block.ffn.gate_up.weight[tower].chunk(2)
            block.ffn.gate_up.weight[tower] = torch.cat([gate[order], up[order]])
            block.ffn.down.weight[tower] = block.ffn.down.weight[tower][:, order]
    return built


@pytest.mark.parametrize("parts, untied", [(None, 0), (["ffn"], 6)])
def test_towers_that_differ_in_the_order_of_their_channels_are_tied_without_loss(parts, untied):
    dense = model(backbone={"kind": "dense"})
    built = towers_alike(dense)
    together = tied.Growth(parts=parts).grow(built)
    same(together, built)
    same(together, dense)
    assert len(together.backbone.config.untied) == untied
    torch.testing.assert_close(together.backbone.blocks[1].ffn.down.weight, dense.backbone.blocks[1].ffn.down.weight)
    assert differ(tied.Growth(parts=parts).grow(model()), model())


def test_layers_that_write_nothing_may_go():
    built = model(backbone={"mixer": ["attention", "linear"]})
    deep = deeper.Growth(layers=2).grow(built)
    for a, b in zip(outputs(shallower.Growth(keep=[0, 1]).grow(deep)), outputs(built)):
        assert torch.equal(a, b)
    half = shallower.Growth().grow(model(backbone={"layers": 3}))
    assert len(half.backbone.blocks) == 2 and differ(half, model(backbone={"layers": 3}))
    with pytest.raises(InputError, match="layer 1 has other parts"):
        shallower.Growth(keep=[1]).grow(built)


def test_an_extracted_slice_is_the_slice_bit_for_bit():
    built = model(backbone={"feed_forward": "nested"})
    small = sliced.Growth(width=24).grow(built)
    assert not hasattr(small.backbone.blocks[0].ffn, "widths") and small.backbone.config.ffn_dim == 24
    whole = outputs(built)
    with chosen(built.backbone, width=24):
        for a, b in zip(outputs(built), outputs(small)):
            assert torch.equal(a, b)
    for a, b in zip(outputs(built), whole):
        assert torch.equal(a, b)  # afterwards as before


def test_width_is_chosen_by_tower_and_experts_by_number():
    built = model(backbone={"feed_forward": "nested"})
    layout = pack(mixed(4), MODALITIES, 48).layout
    full = built.backbone.flops(layout)
    with chosen(built.backbone, width={"image": 16}):
        saved = 2 * 3 * 32 * (built.backbone.config.ffn_dim - 16) * 2 * int((layout.modality == 1).sum())
        assert full - built.backbone.flops(layout) == saved
    routed = model(backbone={"experts": 3, "router": "token_choice", "top_k": 2, "shared_experts": 1})
    before = outputs(routed)
    with chosen(routed.backbone, experts=0):
        none = outputs(routed)
    assert not torch.allclose(none[0], before[0], atol=1e-3)
    assert torch.equal(outputs(routed)[0], before[0])
    for given, complaint in (({"width": 8}, "no nested"), ({"experts": 4}, "must be from 0 to 3")):
        with pytest.raises(InputError, match=complaint):
            choose(routed.backbone, **given)
    for given, complaint in (({"width": 999}, "text must be from 1 to"), ({"width": {"txt": 8}}, "is not a tower")):
        with pytest.raises(InputError, match=complaint):
            choose(built.backbone, **given)


@pytest.mark.parametrize(
    "growth, complaint",
    [
        (moefied.Growth(experts=7), "experts=7: must divide"),
        (spawned.Growth(masked=1.0), "masked=1.0: must be"),
        (pruned.Growth(), "one number of experts"),
        (expanded.Growth(layers=0), "layers=0"),
        (sliced.Growth(width=8), "for nested feed-forwards"),
        (shallower.Growth(keep=[1, 0]), "in rising order"),
        (tied.Growth(parts=["fnn"]), "no tower owns it; did you mean 'ffn'"),
    ],
    ids=str,
)
def test_what_cannot_be_grown_is_refused(growth, complaint):
    with pytest.raises(InputError, match=complaint):
        growth.grow(model())


@pytest.mark.parametrize("growth", [moefied.Growth(experts=4), spawned.Growth(), restructured.Growth()], ids=str)
def test_a_feed_forward_whose_activation_sees_all_channels_is_not_cut(growth):
    with pytest.raises(InputError, match="is for activations without parameters"):
        growth.grow(model(backbone={"kind": "dense", "ffn_dim": 64, "activation": "poly_norm"}))


@pytest.mark.parametrize("name, text", [("deepr", "x=1"), ("deeper", "lairs=2"), ("deeper", "layers=two")])
def test_unknown_growths_and_options_are_named(name, text):
    with pytest.raises(InputError, match=r"did you mean|takes no such value"):
        base.read(name, [text])


def test_the_command_grows_a_shipped_model(tmp_path, capsys):
    """A folder of ours comes out, which loads; a second model is asked for where it is needed."""
    assert main(["convert", "openmoji", str(tmp_path / "deep"), "--grow", "deeper", "layers=1"]) == 0
    assert "training.init" in capsys.readouterr().out
    config = json.loads((tmp_path / "deep/model/config.json").read_text("utf-8"))
    assert config["backbone"]["layers"] == 7 and (tmp_path / "deep/manifest.json").exists()
    assert len(MultimodalModel.from_pretrained(tmp_path / "deep").backbone.blocks) == 7
    assert main(["convert", "openmoji", str(tmp_path / "both"), "--grow", "fused"]) == 2
    assert "fused: is of two models; give the second --with" in capsys.readouterr().err
    assert main(["convert", "openmoji", str(tmp_path / "both")]) == 2
    assert "openmoji: is a model of ours already; make another one of it by --grow NAME" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
