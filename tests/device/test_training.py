"""Training on the pretended device: every kind of recipe and backbone makes a step, nothing is on the wrong device, and
the budgets of host waits and kernels hold."""

import pytest
import torch
from pretended import pretended_cuda
from tiny import MODALITIES, clean, mixed, model
from torch import Tensor

from mot_gen.backbone import lora
from mot_gen.packing import pack
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training import build, compiling, runs
from mot_gen.training.compiling import is_compiled
from mot_gen.training.loop import prepare, training_step

TINY = [
    "data.window=24",
    "tokenizers.text.vocab_size=270",
    "backbone.dim=32",
    "backbone.layers=2",
    "backbone.heads=2",
    "training.rows=2",
    "training.row_length=96",
    "training.steps=4",
    "training.warmup_steps=2",
    "training.log_every=2",
    "training.checkpoint_every=2",
    "training.sample_every=0",
    "training.device=cuda",
]


def tiny(*overrides):
    return load_recipe("digits", [*TINY, *overrides])


@pytest.fixture(scope="module", autouse=True)
def tokenized():
    """Data and tokenizers, made once for all runs."""
    with pytest.MonkeyPatch.context() as patch:
        recipe = tiny()
        splits = build.load_splits(recipe)
        tokenizers = build.build_tokenizers(recipe, splits, None, None)
        patch.setattr(runs, "load_splits", lambda recipe: splits)
        patch.setattr(runs, "build_tokenizers", lambda *given: tokenizers)
        yield


def two_steps(recipe, folder):
    """(waits and kernels of the second step, which is not read; the line of the first, which is): what a step costs
    once all is warm."""
    with pretended_cuda() as launches:
        run = prepare(recipe, folder)
        assert all(p.is_cuda for p in run.model.parameters())
        line = training_step(run)
        launches.clear()
        training_step(run, read=False)
        waits, kernels = dict(launches.waits), launches.launched
        run.close()
    return waits, kernels, line


def blocking(waits):
    return {key: times for key, times in waits.items() if key[0] != "asynchronous copy"}


BACKBONES = {
    "dense": ["backbone.kind=dense"],
    "mot": [],
    "two towers of three": ["backbone.untied=[ffn]"],
    "uneven": ["backbone.widths={image: 16}"],
    "window": ["backbone.reach={kind: window, size: 16}"],
    "plain unit, polynomial": ["backbone.feed_forward=plain", "backbone.activation=poly_norm"],
    "routed heads": ["backbone.head_choice={kind: routed, top_k: 1}"],
    "output norms": ["backbone.norm=output"],
    "segments, modules": ["backbone.mixer=[combiner, modules]"],
    "U-Net": ["backbone.patch_layers={image: {kind: unet}}"],
    "shallow UViT": ["backbone.patch_layers={image: {kind: shallow_uvit}}"],
}
ROUTER = "{kind: token_choice, smooth_weight: 0.1, information_weight: 0.1}"
CHOOSING = {
    "moe4x": ["backbone.kind=moe4x"],
    "symbiotic": ["backbone.kind=symbiotic"],
    "adapters": ["backbone.feed_forward={kind: adapted, adapter: routed}"],
    "experts by neighbours": [f"backbone.feed_forward={{kind: experts, experts: 4, router: {ROUTER}}}"],
    "experts by chance": ["backbone.feed_forward={kind: experts, experts: 4, router: random}"],
    "skipped tokens": ["backbone.depth=token_skip"],
}
# How many passes there are is decided by the values of the model itself.
WAITING = {
    "gumbel": ["backbone.feed_forward={kind: experts, experts: 4, router: gumbel}"],
    "blocks": ["backbone.depth={kind: blocks, group: 2, run: 1}"],
}


IN_BF16 = {"mot", "segments, modules", "shallow UViT"}
EACH = [(name, "bf16" if name in IN_BF16 else "fp32") for name in BACKBONES]


@pytest.mark.parametrize(("name", "precision"), [*EACH, ("mot", "fp32")])
def test_a_step_of_every_backbone_waits_for_nothing(name, precision, tmp_path):
    waits, _, line = two_steps(tiny(*BACKBONES[name], f"training.precision={precision}"), tmp_path)
    assert blocking(waits) == {}
    assert set(line["losses"]) == {"text", "image"} and line["grad_norm"] > 0


@pytest.mark.parametrize("name", CHOOSING)
def test_a_step_of_backbones_that_choose_tokens_waits_for_nothing(name, tmp_path):
    """In bf16: in fp32 CUDA has no grouped product, and experts are multiplied one by one, whose numbers of tokens the
    host must know. Where experts choose it knows them."""
    precision = "fp32" if name == "moe4x" else "bf16"
    waits, _, line = two_steps(tiny(*CHOOSING[name], f"training.precision={precision}"), tmp_path)
    assert blocking(waits) == {}
    assert line["grad_norm"] > 0


@pytest.mark.parametrize("name", WAITING)
def test_backbones_whose_passes_only_the_device_can_count_train(name, tmp_path):
    waits, _, line = two_steps(tiny(*WAITING[name], "training.precision=bf16"), tmp_path)
    assert sum(blocking(waits).values()) <= 8, waits
    assert line["grad_norm"] > 0


TRAINING = {
    "accumulation": ["training.accumulate=2"],
    "averaged weights": ["training.ema=0.9"],
    "recomputed blocks": ["training.gradient_checkpointing=true"],
    "skipping spikes": ["training.spike=5.0"],
    "muon": ["training.optimizer=muon"],
    "replaced tokens": ["objectives.text.replaced=0.3"],
    "diffusion": ["objectives.image.kind=diffusion"],
    "shortcut": ["objectives.image={kind: shortcut, share: 0.5}", "training.ema=0.9"],
}


@pytest.mark.parametrize("name", TRAINING)
def test_a_step_of_every_kind_of_training_waits_for_nothing(name, tmp_path):
    waits, _, line = two_steps(tiny(*TRAINING[name]), tmp_path)
    assert blocking(waits) == {}
    assert line["grad_norm"] > 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_without_a_finite_gradient_changes_nothing(optimizer, tmp_path):
    with pretended_cuda():
        run = prepare(tiny(f"training.optimizer={optimizer}"), tmp_path)
        training_step(run, read=False)
        tensors = [*run.model.parameters(), *(each for pair in run.optimizer.moments.values() for each in pair)]
        before = [tensor.detach().cpu() for tensor in tensors]
        for parameter in run.optimizer.parameters:
            parameter.grad = torch.full_like(parameter, float("nan"))
        run.optimizer.step(1)
        assert all(torch.equal(tensor.detach().cpu(), old) for tensor, old in zip(tensors, before))
        assert (run.optimizer.updates, run.optimizer.skipped) == (1, 1)
        run.close()


def test_reading_a_step_waits_once(tmp_path):
    with pretended_cuda() as launches:
        run = prepare(tiny(), tmp_path)
        training_step(run)
        launches.clear()
        training_step(run)
        run.close()
    assert launches.waited == 1


def test_a_step_of_six_layers_launches_few_kernels(tmp_path):
    """The first version launched 1,236 in fp32 and 1,332 in bf16, counted so."""
    for precision, most in (("fp32", 620), ("bf16", 710)):
        recipe = tiny("backbone.layers=6", f"training.precision={precision}")
        _, kernels, _ = two_steps(recipe, tmp_path / precision)
        assert kernels <= most, precision


ALONE = {"mot": {}, "grouped heads, one norm": {"kv_heads": 2, "untied": ["ffn"]}, "adapters": {}}


@pytest.mark.parametrize("name", ALONE)
def test_a_model_learns_as_on_the_cpu(name):
    batch = clean(pack(mixed(), MODALITIES, 32), 0.4)

    def gradients(device: str) -> dict[str, Tensor]:
        net = model(backbone=ALONE[name])
        if name == "adapters":
            lora.add(net, ["text", "image"], rank=2, alpha=4.0)
        net = net.to(device).train()
        made = net(batch.to(device))
        (made.logits.square().mean() + made.latents["image"].square().mean()).backward()
        return {name: p.grad.cpu() for name, p in net.named_parameters() if p.grad is not None}

    here = gradients("cpu")
    with pretended_cuda():
        there = gradients("cuda")
    assert here.keys() == there.keys()
    for parameter, gradient in here.items():
        torch.testing.assert_close(there[parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter)


def test_blocks_are_compiled_on_a_gpu_unless_the_recipe_says_otherwise(monkeypatch):
    device, usual = torch.device("cuda"), model()
    assert not is_compiled(tiny(), usual, torch.device("cpu"))
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert not is_compiled(tiny(), usual, device)
    monkeypatch.setattr(compiling, "find_spec", lambda name: object())
    assert is_compiled(tiny(), usual, device)
    assert not is_compiled(tiny("training.compile=false"), usual, device)
    assert not is_compiled(tiny(), model(backbone={"kind": "moe4x"}), device)
    assert not is_compiled(tiny("training.consistency=0.1"), usual, device)
    assert is_compiled(tiny("training.compile=true"), usual, torch.device("cpu"))


def test_rows_are_padded_for_the_device(tmp_path):
    with pretended_cuda():
        run = prepare(tiny(), tmp_path)
        batch = run.batches.take(0).batches[0].batch
        run.close()
    assert batch.layout.shape == (2, 128)
    assert batch.tokens <= 2 * 96
