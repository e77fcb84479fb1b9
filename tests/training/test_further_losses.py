"""What training learns from beside its data: teachers, two draws of one model; and what learns when."""

import pytest
import torch
from tiny import MODALITIES, generator, mixed, model
from tiny_runs import tiny

from mot_gen.errors import InputError
from mot_gen.model import Output
from mot_gen.packing import pack
from mot_gen.recipes.sections import Teacher, Training
from mot_gen.training.further_losses import FurtherLosses
from mot_gen.training.loop import prepare, training_step
from mot_gen.training.teacher import distance

CPU = torch.device("cpu")


def batch_of(built):
    return built.corrupt(pack(mixed(4), MODALITIES, 48), generator(0))


def further(built, folder=None, consistency=0.0, **section):
    teacher = None if folder is None else Teacher(model=str(folder), **section)
    return FurtherLosses(Training(teacher=teacher, consistency=consistency), built, CPU)


def terms_of(found, built):
    batch, targets = batch_of(built)
    return found.terms(built, built, batch, built(batch), targets)


@pytest.mark.parametrize("where", ["mixer", "layer"])
@pytest.mark.parametrize("layer_loss", ["cosine", "mse"])
def test_a_model_that_is_its_own_teacher_has_nothing_to_learn(tmp_path, where, layer_loss):
    built = model()
    built.save_pretrained(tmp_path)
    found = terms_of(further(built, tmp_path, layers=[[0, 0], [1, 1]], where=where, layer_loss=layer_loss), built)
    assert set(found) == {"text", "image", "speech"}
    for value in found.values():
        assert value.item() == pytest.approx(0.0, abs=1e-4)


def test_a_dense_model_learns_from_one_of_towers_layer_by_layer(tmp_path):
    """Tokens stand in another order in each, and are compared in that of the sequence."""
    teacher, student = model(), model(seed=1, backbone={"kind": "dense"})
    teacher.save_pretrained(tmp_path)
    taught = further(student, tmp_path, layers=[[1, 0]], where="layer", layer_loss="mse", outputs=0.0)
    batch, targets = batch_of(student)
    kept = []
    for built, number in ((student, 1), (teacher, 0)):
        hook = built.backbone.blocks[number].register_forward_hook(
            lambda module, inputs, output: kept.append(inputs[1].routing.unsort(output).detach())
        )
        built(batch)
        hook.remove()
    found = taught.terms(student, student, batch, student(batch), targets)
    real = batch.layout.document.flatten() >= 0
    want = (kept[0][real] - kept[1][real]).square().mean() * student.loss_masks(batch)["text"].sum()
    torch.testing.assert_close(found["text"], want)
    found["text"].backward()
    assert student.backbone.blocks[1].qkv.weight.grad.any()
    assert all(p.grad is None for p in taught.teacher.model.parameters())


def test_distances_are_their_formulas():
    first = Output(torch.tensor([[2.0, 0.0]]), {"image": torch.tensor([[1.0, 3.0]])})
    second = Output(torch.tensor([[0.0, 0.0]]), {"image": torch.tensor([[1.0, 1.0]])})
    p, q = first.logits.softmax(-1), second.logits.softmax(-1)
    assert distance("text", second, first, "kl").item() == pytest.approx((p * (p / q).log()).sum().item())
    want = ((p - q) * (p.log() - q.log())).sum().item() / 2
    assert distance("text", first, second, "symmetric").item() == pytest.approx(want)
    assert distance("image", first, second, "mse").item() == pytest.approx(2.0)
    warm = distance("text", second, first, "kl", temperature=2.0)
    p = (first.logits / 2).softmax(-1)
    assert warm.item() == pytest.approx(4 * (p * (p / q).log()).sum().item())


def test_two_passes_of_one_expert_agree_and_of_several_do_not():
    for experts, agrees in ((1, True), (4, False)):
        built = model(backbone={"experts": experts, "router": "random"} if experts > 1 else {}).train()
        batch, targets = batch_of(built)
        first = built(batch)
        plain, held = (
            further(built, consistency=each).terms(built, built, batch, first, targets) for each in (1e-9, 1.0)
        )
        apart = abs(held["text"].item() - plain["text"].item())
        assert (apart < 1e-3) is agrees
        assert further(built, consistency=1.0).flops(built, batch) > 0 == further(built).flops(built, batch)


@pytest.mark.parametrize(
    "section, complaint",
    [
        ({"layers": [[0, 9]]}, "training.teacher.layers: 9 must be from 0 to 1, the layers of the teacher"),
        ({"layers": [[5, 0]]}, "training.teacher.layers: 5 must be from 0 to 1, the layers of this model"),
    ],
    ids=str,
)
def test_layers_that_are_not_there_are_refused(tmp_path, section, complaint):
    built = model()
    built.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=complaint):
        further(built, tmp_path, **section)


def test_a_teacher_of_another_vocabulary_or_width_is_refused(tmp_path):
    model([MODALITIES[0]]).save_pretrained(tmp_path / "words")
    with pytest.raises(InputError, match="has other modalities or another vocabulary"):
        further(model(), tmp_path / "words")
    model(backbone={"dim": 48}).save_pretrained(tmp_path / "wide")
    further(model(), tmp_path / "wide")
    with pytest.raises(InputError, match="the teacher is 48 wide and this model 32"):
        further(model(), tmp_path / "wide", layers=[[0, 0]])


# ---------------------------------------------------------------- what learns when


def moved(run, steps):
    """The parameters that these steps changed, and which slices of untied ones."""
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    for _ in range(steps):
        training_step(run)
    return {
        name: (p.detach() != before[name]).flatten(1).any(1) for name, p in run.model.named_parameters() if p.dim() > 1
    }


def test_towers_learn_by_phases(tmp_path):
    """In the first two steps text is shielded; in the third it learns at another rate; then all learn alike."""
    phases = "training.phases=[{until: 2, frozen: [text]}, {until: 3, lr_factors: {text: 0.5}}]"
    run = prepare(tiny(phases), tmp_path)
    first = moved(run, 2)
    assert first["backbone.blocks.0.qkv.weight"].tolist() == [False, True]
    assert not first["head.weight"].any() and not first["embedding.weight"].any()
    assert moved(run, 1)["backbone.blocks.0.qkv.weight"].tolist() == [True, True]
    rates = {
        group["factors"]: group["lr"] for optimizer in run.optimizer.optimizers for group in optimizer.param_groups
    }
    assert rates[(0.0, 0.5, 1.0)] == pytest.approx(0.5 * rates[(1.0, 1.0, 1.0)])


def test_parts_and_layers_that_learn_are_named(tmp_path):
    run = prepare(tiny("training.learns=[qkv]", "backbone.layers=2", "training.frozen_layers=1"), tmp_path)
    changed = {name for name, which in moved(run, 1).items() if which.any()}
    assert changed == {"backbone.blocks.1.qkv.weight"}
    with pytest.raises(InputError, match="no part of the model is called 'quv'; did you mean 'qkv'"):
        prepare(tiny("training.learns=[quv]"), tmp_path / "none")
    with pytest.raises(InputError, match="nothing would be learned"):
        prepare(tiny("training.learns=[embedding]", "training.frozen_layers=1"), tmp_path / "none")


def test_what_does_not_learn_costs_nothing_and_changes_no_gradient(tmp_path):
    """No gradient, no moments, no average of its own; what learns has the gradients that it has beside the others."""
    usual = ["backbone.layers=2", "training.ema=0.9", "training.clip=1e9"]
    whole = prepare(tiny(*usual), tmp_path / "whole")
    upper = prepare(tiny(*usual, "training.frozen_layers=1"), tmp_path / "upper")
    for run in (whole, upper):
        training_step(run)
    learned = {name for name, parameter in upper.model.named_parameters() if parameter.requires_grad}
    assert learned and learned == upper.optimizer.moments.keys() < whole.optimizer.moments.keys()
    assert not any(name.startswith(("embedding", "backbone.blocks.0.")) for name in learned)
    for name, parameter in upper.averaged.named_parameters():
        assert (parameter is upper.model.get_parameter(name)) == (name not in learned)
    for name in learned:
        assert torch.equal(upper.optimizer.moments[name][0], whole.optimizer.moments[name][0]), name


def test_phases_are_checked_when_the_recipe_is_read():
    with pytest.raises(InputError, match="phases must end one after the other"):
        tiny("training.phases=[{until: 3}, {until: 2}]")
    with pytest.raises(InputError, match=r"training.phases.0.frozen.*'txt'"):
        tiny("training.phases=[{until: 3, frozen: [txt]}]")


def test_a_run_learns_from_its_teacher_and_tells_gates_how_far_it_is(tmp_path):
    options = ["backbone.experts=2", "backbone.router=gumbel"]
    first = prepare(tiny(*options), tmp_path / "teacher")
    first.model.save_pretrained(tmp_path / "saved")
    run = prepare(tiny(*options, f"training.teacher.model={tmp_path / 'saved'}", "training.teacher.data=0.0"), tmp_path)
    flops = training_step(first)["flops"]
    entry = training_step(run)
    assert entry["flops"] > flops and run.model.backbone.blocks[0].ffn.progress == 0.0
    training_step(run)
    assert run.model.backbone.blocks[0].ffn.progress == pytest.approx(1 / 6)
