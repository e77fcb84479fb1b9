"""Adapters: nothing at first, only for the tokens of their towers, the same merged, and as peft computes them."""

import copy
import json

import pytest
import torch
from tiny import MODALITIES, clean, mixed, words

from mot_gen.backbone import lora
from mot_gen.backbone.routing import is_adapter
from mot_gen.errors import InputError
from mot_gen.model import MultimodalConfig, MultimodalModel
from mot_gen.packing import pack
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training.loop import Hooks, train

peft = pytest.importorskip("peft", reason="the extra lora")
KINDS = {
    "mot": {"kind": "mot"},
    "ffn": {"kind": "mot", "untied": ["ffn", "ffn_norm"]},
    "dense": {"kind": "dense"},
    "mom": {"kind": "mom", "bidirectional": "causal"},
}


def model(kind="mot") -> MultimodalModel:
    """A model without adapters, always the same."""
    backbone = {"dim": 32, "layers": 2} | ({} if kind == "mom" else {"heads": 4, "ffn_dim": 32}) | KINDS[kind]
    torch.manual_seed(0)
    built = MultimodalModel(**MultimodalConfig(MODALITIES, backbone).to_dict()).eval()
    for parameter in built.parameters():  # that every path has its say
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return built


def adapted(kind="mot", towers=("image",), **options) -> MultimodalModel:
    made = model(kind)
    lora.add(made, towers if kind != "dense" else ["all"], **{"rank": 2, "alpha": 6.0} | options)
    for parameter in (p for name, p in made.named_parameters() if is_adapter(name)):
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def batch(*samples):
    return clean(pack(samples or mixed(), MODALITIES, 64), 0.5)


@torch.no_grad()
def hidden(model, given=None) -> torch.Tensor:
    given = given or batch()
    return model.backbone(model.embed(given)[0], given.layout)


def test_an_adapter_that_has_learned_nothing_changes_nothing():
    made = adapted()
    for name, parameter in made.named_parameters():
        if is_adapter(name):
            parameter.data = lora.initial_value(name, parameter.shape)
    assert torch.equal(hidden(made), hidden(model()))
    assert all(p.requires_grad is is_adapter(name) for name, p in made.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_merged_it_is_the_same(kind):
    made = adapted(kind).double()  # norms and Mamba's states are in float32 all the same
    merged = lora.merged(made)
    assert not lora.adapters(merged) and len(lora.adapters(made)) >= 4
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in model(kind).named_parameters()]
    assert (hidden(made) - hidden(model(kind).double())).abs().max() > 1e-2
    assert (hidden(made) - hidden(merged)).abs().max() < 1e-5


def test_tokens_of_other_towers_are_as_they_were():
    made, texts = adapted(), batch([words(9)], [words(5)])
    assert torch.equal(hidden(made, texts), hidden(model(), texts))


def test_an_absent_modality_has_zero_gradients_not_missing_ones():
    made, texts = adapted(), batch([words(9)])
    made.backbone(made.embed(texts)[0], texts.layout).sum().backward()
    gradients = [p.grad for name, p in made.named_parameters() if is_adapter(name)]
    assert gradients and all(g is not None and not g.any() for g in gradients)


@pytest.mark.parametrize("towers", [("image",), ("text", "image")])
def test_peft_reads_what_is_saved_and_computes_the_same(tmp_path, towers):
    made = adapted(towers=towers)
    lora.save(made, tmp_path, "base")
    theirs = peft.PeftModel.from_pretrained(model(), tmp_path)
    assert (hidden(theirs.base_model.model) - hidden(made)).abs().max() < 1e-5
    merged = theirs.merge_and_unload()
    assert (hidden(merged) - hidden(made)).abs().max() < 1e-5


def test_saved_and_loaded_it_is_the_same(tmp_path):
    made, loaded = adapted(layers=["qkv", "down"]), model()
    lora.save(made, tmp_path)
    lora.load(loaded, tmp_path)
    assert (hidden(loaded) - hidden(made)).abs().max() < 1e-6
    other = MultimodalModel(**MultimodalConfig(MODALITIES, {"dim": 32, "layers": 2, "heads": 2}).to_dict())
    with pytest.raises(InputError, match=r"its adapter of backbone\.blocks\.0\.\S+ does not fit this model"):
        lora.load(other, tmp_path)


def test_the_first_layers_may_have_none_and_then_get_no_gradient(tmp_path):
    made, loaded = adapted(first=1), model()
    assert {name.split(".")[2] for name in lora.adapters(made)} == {"1"}
    reached = []
    for block in made.backbone.blocks:
        block.register_forward_hook(lambda block, given, states: reached.append(states.requires_grad))
    made.backbone(made.embed(batch())[0], batch().layout)
    assert reached == [False, True]
    lora.save(made, tmp_path)
    lora.load(loaded, tmp_path)
    assert (hidden(loaded) - hidden(made)).abs().max() < 1e-6
    with pytest.raises(InputError, match=r"training\.frozen_layers: 2 leaves no layer to backbone\.lora"):
        adapted(first=2)


TINY = [
    "training.threads=1",
    "tokenizers.text.vocab_size=270",
    "backbone.dim=16",
    "backbone.layers=1",
    "backbone.heads=2",
    "training.rows=2",
    "training.steps=4",
    "training.warmup_steps=1",
    "training.ema=0.5",
    "training.checkpoint_every=2",
    "training.sample_every=0",
    "training.device=cpu",
    "training.peak_flops=1e11",
    "evaluation.every=0",
]


def test_a_run_learns_adapters_and_moves_nothing_else_by_one_bit(tmp_path):
    from mot_gen.reports.hooks import export

    hooks = Hooks(export=export)
    base = train(load_recipe("digits", TINY), tmp_path / "base", hooks=hooks)
    options = [*TINY, f"training.init={tmp_path / 'base'}", "backbone.lora={towers: [image], rank: 4}"]
    run = train(load_recipe("digits", options), tmp_path / "run", hooks=hooks)
    before, after = dict(base.averaged.named_parameters()), dict(run.averaged.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(value, dict(run.model.named_parameters())[name]) for name, value in before.items())
    learned = [p for name, p in after.items() if name.endswith(".b")]
    assert len(learned) == len(after.keys() - before.keys()) / 2 == 4 and all(p.any() for p in learned)
    exported = MultimodalModel.from_pretrained(tmp_path / "run" / "model" / "model")
    assert dict(exported.named_parameters()).keys() == before.keys()
    merged = lora.merged(run.averaged)
    assert all(torch.equal(p, dict(merged.named_parameters())[name]) for name, p in exported.named_parameters())
    text = dict(exported.named_parameters())["backbone.blocks.0.qkv.weight"][0]
    assert torch.equal(text, before["backbone.blocks.0.qkv.weight"][0])
    about = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert about["r"] == 4 and about["base_model_name_or_path"] == str(tmp_path / "base")
    again = copy.deepcopy(base.averaged)
    lora.load(again, tmp_path / "run" / "adapter")
    assert all(torch.equal(x, y) for x, y in zip(lora.merged(again).parameters(), merged.parameters()))


WRONG = {
    "{towers: [imge]}": ("backbone.lora.towers", "did you mean 'image'"),
    "{towers: []}": ("backbone.lora.towers", "at least 1"),
    "{towers: [image], rank: 0}": ("backbone.lora.rank", "greater than or equal to 1"),
    "{towers: [image], alpha: -1}": ("backbone.lora.alpha", "greater than 0"),
}


@pytest.mark.parametrize("given", WRONG)
def test_what_a_recipe_may_not_say_of_adapters(given):
    with pytest.raises(InputError) as caught:
        load_recipe("digits", ["training.init=runs/base", f"backbone.lora={given}"])
    assert all(expected in str(caught.value) for expected in WRONG[given])
    with pytest.raises(InputError, match=r"backbone\.lora: adapts a model that was trained.*training\.init"):
        load_recipe("digits", ["backbone.lora={towers: [image]}"])


def test_projections_that_are_not_there_are_named():
    with pytest.raises(InputError, match=r"backbone\.lora\.layers: 'qkw' .*did you mean 'qkv'"):
        adapted(layers=["qkw"])


@pytest.mark.parametrize("kind", ["mot", "ffn", "dense"])
def test_the_cheap_step_has_the_gradients_of_the_plain_one(kind, monkeypatch):
    """One operation for a frozen projection and its adapter, against autograd over the two."""
    from mot_gen.backbone.routing import UntiedLinear

    def gradients(towers):
        made = adapted(kind, towers=towers)
        noisy = batch()
        output = made(noisy)
        (output.logits.square().mean() + sum(latents.square().mean() for latents in output.latents.values())).backward()
        return {name: p.grad for name, p in made.named_parameters() if p.requires_grad}

    for towers in (("image",), ("text", "image")):
        cheap = gradients(towers)
        monkeypatch.setattr(UntiedLinear, "learns_beside", property(lambda layer: False))
        plain = gradients(towers)
        monkeypatch.undo()
        assert cheap.keys() == plain.keys() and all(is_adapter(name) for name in cheap)
        for name, gradient in plain.items():
            torch.testing.assert_close(cheap[name], gradient, atol=1e-6, rtol=1e-4)


def test_what_can_be_made_again_is_not_kept(monkeypatch):
    """Of the feed-forward's hidden channels nothing is kept, and every gradient is the same to the bit."""
    from mot_gen.backbone.routing import UntiedLinear

    def step():
        made, noisy, sizes = adapted(), batch(), []

        def keep(tensor):
            sizes.append((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = made(noisy)
            loss = output.logits.square().mean() + sum(each.square().mean() for each in output.latents.values())
        loss.backward()
        hidden = sum(layer.weight.shape[-1] for name, layer in made.named_modules() if name.endswith("ffn.down"))
        gradients = {name: p.grad for name, p in made.named_parameters() if p.requires_grad}
        return gradients, sum(dict(sizes).values()), 4 * hidden * noisy.layout.modality.numel()

    gradients, kept, hidden = step()
    forward = UntiedLinear.forward
    monkeypatch.setattr(UntiedLinear, "forward", lambda layer, x, routing, again=None: forward(layer, x, routing))
    others, more, _ = step()
    assert more - kept == hidden
    for name, gradient in gradients.items():
        assert torch.equal(gradient, others[name]), name


def test_frozen_weights_get_no_gradients_and_averages_share_them(tmp_path):
    from mot_gen.training.loop import training_step
    from mot_gen.training.runs import prepare

    options = ["backbone.dim=32", "backbone.layers=1", "backbone.heads=2", "training.rows=2", "training.device=cpu"]
    recipe = load_recipe("digits", [*options, "training.init=x", "backbone.lora={towers: [image], rank: 2}"])
    recipe.training.init = None
    run = prepare(recipe, tmp_path)
    training_step(run)
    for name, parameter in run.averaged.named_parameters():
        own = run.model.get_parameter(name)
        assert (parameter is own) != is_adapter(name)
    assert set(run.optimizer.moments) == {name for name, _ in run.model.named_parameters() if is_adapter(name)}
    run.close()


def test_adapters_that_are_added_to_a_model_change_nothing_at_first():
    net, batch = model(), clean(pack(mixed(3), MODALITIES, 64))
    before = net(batch).logits
    lora.add(net, ["text", "image"], rank=2, alpha=4.0)
    torch.testing.assert_close(net(batch).logits, before)
    for adapter in lora.adapters(net).values():
        assert not adapter.b.any() and adapter.a.std() > 0
