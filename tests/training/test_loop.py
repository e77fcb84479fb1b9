"""The loop: resume to the bit, skipped steps, frozen towers, stopping by signal, metrics, misfitting checkpoints."""

import json
import math
import os
import signal

import pytest
import torch
from tiny_runs import TINY, tiny

from mot_gen.errors import Diverged, InputError, Interrupted
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training import checkpoint
from mot_gen.training.learning_rate import learning_rate
from mot_gen.training.loop import Hooks, prepare, train, training_step
from mot_gen.training.optimizer import MAX_SKIPPED


def state_of(run):
    """All that the next step depends on, flat: name -> tensor or number."""
    models = {"model": run.model.state_dict(), "ema": run.averaged.state_dict()}
    weights = {f"{kind}.{name}": value for kind, state in models.items() for name, value in state.items()}
    counted = {f"optimizer.{name}": torch.tensor(value) for name, value in run.optimizer.state_dict().items()}
    states = [state for optimizer in run.optimizer.optimizers for state in optimizer.state.values()]
    steps = {f"step.{i}": state["step"] for i, state in enumerate(states) if "step" in state}
    return weights | run.optimizer.tensors() | counted | steps | {"random": torch.get_rng_state()}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path, optimizer):
    """Model, optimizer, EMA, random state, counters, data position and the next batch, to the bit."""
    options = [f"training.optimizer={optimizer}", f"backbone.dim={64 if optimizer == 'muon' else 16}"]
    whole = train(tiny(*options), tmp_path / "whole")

    def pull_the_plug(run):
        if run.step == 4:
            raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        train(tiny(*options, "training.sample_every=1"), tmp_path / "halves", hooks=Hooks(sample=pull_the_plug))
    assert sorted(p.name for p in (tmp_path / "halves" / "checkpoints").glob("step-*")) == ["step-00000002"]
    torch.rand(5)
    halves = train(tiny(*options), tmp_path / "halves", resume=True)
    a, b = state_of(whole), state_of(halves)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert (whole.step, whole.tokens, whole.flops) == (halves.step, halves.tokens, halves.flops)
    assert whole.loader.state_dict() == halves.loader.state_dict()
    following = [run.batches.prepare_batch(run.step, 0).batch.latents["image"].values for run in (whole, halves)]
    assert torch.equal(*following)
    lines = [lines_of(tmp_path / name) for name in ("whole", "halves")]
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4, 5, 6]
    assert [line["losses"] for line in lines[0]] == [line["losses"] for line in lines[1]]


def test_a_run_whose_data_grew_goes_on_with_the_vocabulary_that_it_began_with(tmp_path):
    """A tokenizer trained anew would give every id another meaning, without a word."""
    records, line = tmp_path / "a.jsonl", '{"id": "%s", "content": [{"type": "text", "text": "%s"}]}\n'
    records.write_text(line % ("1", "aaaa bbbb") + line % ("2", "aaaa cccc"))
    options = ["data.source=records", f"data.records={records}", "data.held_out=0.0", "training.checkpoint_every=1"]
    text_only = ["tokenizers={text: {kind: text, vocab_size: 262}}", "objectives={text: {kind: next_token}}"]
    recipe = load_recipe("digits", [*TINY[2:], *options, *text_only, "training.steps=1", "training.warmup_steps=1"])
    began = train(recipe, tmp_path / "run").tokenizers["text"]
    records.write_text(records.read_text() + "".join(line % (str(i), "zzzz yyyy zzzz yyyy") for i in range(3, 30)))
    recipe.training.steps, recipe.data.accept_changed = 2, True
    went_on = train(recipe, tmp_path / "run", resume=True).tokenizers["text"]
    assert torch.equal(went_on.encode("aaaa zzzz").values, began.encode("aaaa zzzz").values)
    anew = train(recipe, tmp_path / "other").tokenizers["text"]
    assert not torch.equal(anew.encode("aaaa zzzz").values, began.encode("aaaa zzzz").values)


def test_muon_steps_each_towers_matrix_along_its_orthogonal_factor(tmp_path):
    """Without momentum a step is U V^T of the gradient G = U S V^T, times 0.2 sqrt(longer side), to the accuracy of
    Newton and Schulz: singular values about 1, those of a small S aside."""
    options = ["training.optimizer=muon", "training.betas=[0.9, 0.0]", "training.weight_decay=0", "backbone.dim=64"]
    run = prepare(tiny(*options), tmp_path)
    for _ in range(2):  # heads begin at zero, so that no gradient passes them at first
        training_step(run)
    weight, gradients = run.model.get_parameter("backbone.blocks.0.qkv.weight"), []
    before, step = weight.detach().clone(), run.optimizer.step
    run.optimizer.step = lambda number: gradients.append(weight.grad.clone()) or step(number)
    training_step(run)
    for gradient, was, now in zip(gradients[0], before, weight.detach()):
        u, s, v = torch.linalg.svd(gradient.double(), full_matrices=False)
        moved = (was - now).double() / (learning_rate(2, run.recipe.training) * 0.2 * len(now) ** 0.5)
        large = s > 0.02 * s[0]
        stretched = (u.T @ moved @ v.T)[large][:, large]
        values = stretched.diagonal()
        assert len(values) > 4 and ((values > 0.6) & (values < 1.3)).all()
        assert (stretched - values.diag()).abs().max() < 0.1


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_say_what_is_promised(tmp_path):
    recipe = tiny("training.steps=3", "training.log_every=2", "evaluation.every=3")
    run = train(recipe, tmp_path, hooks=Hooks(evaluate=lambda run: {"quality": run.step}))
    second, last = lines_of(tmp_path)
    promised = {"step", "seconds", "tokens", "flops", "losses", "lr", "grad_norm"}
    assert promised <= second.keys() and set(second["losses"]) == {"text", "image"}
    assert (second["step"], last["step"], last["evaluation"]) == (2, 3, {"quality": 3})
    assert 0 < second["tokens"] < last["tokens"] == run.tokens <= 3 * 2 * 96
    assert 0 < second["flops"] * 1.5 == pytest.approx(last["flops"], rel=0.1)
    assert [line["lr"] for line in (second, last)] == [learning_rate(step, recipe.training) for step in (1, 2)]
    assert all(math.isfinite(line["grad_norm"]) and line["grad_norm"] > 0 for line in (second, last))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_accumulation_is_a_larger_batch(tmp_path, monkeypatch):
    """4 batches of 1 row and 1 batch of 4 rows: the same losses and the same gradient, at fixed times and noise."""
    found = []
    for overrides in (("training.rows=1", "training.accumulate=4"), ("training.rows=4", "training.accumulate=1")):
        run = prepare(tiny(*overrides), tmp_path)
        half_noised(run.model, monkeypatch)
        gradients = {}
        monkeypatch.setattr(run.optimizer, "step", lambda step, run=run, to=gradients: keep_gradients(run, to))
        entry = training_step(run)
        found.append((entry["losses"], entry["tokens"], gradients))
    (losses, tokens, gradients), (other_losses, other_tokens, other_gradients) = found
    assert tokens == other_tokens and losses == pytest.approx(other_losses, rel=1e-5)
    torch.testing.assert_close(gradients, other_gradients, atol=1e-6, rtol=1e-4)


def half_noised(model, monkeypatch):
    """Corruption that is a function of the values alone, and an output layer that is not zero."""
    torch.nn.init.constant_(model.patch_layers["image"].proj_out.weight, 0.02)

    def corrupt(batch, generator, tokens=False):
        for latents in batch.latents.values():
            latents.time = torch.full((len(latents.grids),), 0.5)
        return batch, {name: latents.values.sin() for name, latents in batch.latents.items()}

    monkeypatch.setattr(model, "corrupt", corrupt)


def keep_gradients(run, to):
    to |= {name: p.grad.clone() for name, p in run.model.named_parameters()}
    return 0.0, torch.zeros(())


def test_the_loss_of_a_modality_counts_by_its_weight(tmp_path, monkeypatch):
    gradients = []
    for weight in (1.0, 5.0):
        run = prepare(tiny(f"objectives.image.weight={weight}"), tmp_path)
        half_noised(run.model, monkeypatch)
        kept = {}
        monkeypatch.setattr(run.optimizer, "step", lambda step, run=run, to=kept: keep_gradients(run, to))
        training_step(run)
        gradients.append(kept["patch_layers.image.proj_out.weight"])
    torch.testing.assert_close(gradients[1], 5 * gradients[0])


def test_a_gradient_that_is_no_number_is_skipped(tmp_path, monkeypatch):
    run = prepare(tiny(), tmp_path)
    training_step(run)
    before = {
        name: value.clone() for name, value in state_of(run).items() if name.startswith(("model.", "exp_avg", "adamw."))
    }
    spoil(run, monkeypatch)
    entry = training_step(run)
    assert math.isnan(entry["grad_norm"]) and run.optimizer.skipped == 1 and run.step == 2
    after = state_of(run)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    monkeypatch.undo()
    training_step(run)
    assert run.optimizer.skipped == 0
    assert not torch.equal(run.model.embedding.weight, before["model.embedding.weight"])


def test_gradients_that_stay_no_number_end_the_run(tmp_path, monkeypatch):
    run = prepare(tiny(), tmp_path)
    spoil(run, monkeypatch)
    run.optimizer.load_state_dict({"updates": 0, "skipped": MAX_SKIPPED - 1, "usual_norm": 0.0})
    with pytest.raises(Diverged, match=f"not finite in {MAX_SKIPPED} steps in a row"):
        training_step(run)


def spoil(run, monkeypatch):
    network = run.network

    def times_nan(*given):
        losses = network(*given)
        losses.total = losses.total * float("nan")
        return losses

    monkeypatch.setattr(run, "network", times_nan)


def test_a_frozen_tower_does_not_move_one_bit(tmp_path):
    run = prepare(tiny("backbone.frozen=[text]", "training.weight_decay=0.5"), tmp_path)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    for _ in range(3):
        training_step(run)
    text, image = (run.model.backbone.towers.index(name) for name in ("text", "image"))
    for name, parameter in run.model.named_parameters():
        if name.removeprefix("backbone.") in run.model.backbone.untied_parameters():
            assert torch.equal(parameter[text], before[name][text]), name
            assert not torch.equal(parameter[image], before[name][image]), name
        else:  # the embedding and the head are the text's, the patch layers the image's
            assert torch.equal(parameter, before[name]) == name.startswith(("embedding", "head")), name


def test_a_tower_has_its_own_learning_rate(tmp_path):
    """AdamW's first step is the learning rate in each coordinate, up to eps and decay."""
    moves = []
    for overrides in ((), ("backbone.lr_factors={image: 0.1}",)):
        run = prepare(tiny("training.weight_decay=0.0", "training.eps=1e-30", *overrides), tmp_path)
        weight = run.model.backbone.blocks[0].qkv.weight
        before = weight.detach().clone()
        training_step(run)
        moves.append((weight.detach() - before).abs().amax((1, 2)))
    (text, image), (same, tenth) = moves
    torch.testing.assert_close(same, text)
    torch.testing.assert_close(tenth, image / 10, atol=1e-7, rtol=1e-2)


def test_the_rate_warms_up_and_follows_a_cosine():
    training = tiny("training.steps=100", "training.warmup_steps=10", "training.lr=1.0", "training.min_lr=0.2").training
    rates = [learning_rate(step, training) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1 and rates[55] == pytest.approx(0.6) and rates[100] == pytest.approx(0.2)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint(tmp_path, number):
    """At the end of the step, also between two intervals; the run goes on from there, the handlers are put back."""
    before = signal.getsignal(number)

    def send(run):
        if run.step == 3:
            os.kill(os.getpid(), number)

    recipe = tiny("training.sample_every=1")
    with pytest.raises(Interrupted, match="stopped at step 3; go on with --resume"):
        train(recipe, tmp_path, hooks=Hooks(sample=send))
    assert signal.getsignal(number) is before
    newest = checkpoint.latest_good(tmp_path)
    assert newest.name == "step-00000003" and checkpoint.load(newest).step == 3
    assert train(recipe, tmp_path, resume=True).step == 6


def test_a_second_interrupt_ends_at_once(tmp_path):
    def send(run):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny("training.sample_every=1"), tmp_path, hooks=Hooks(sample=send))


def test_a_folder_has_one_run_and_one_writer(tmp_path):
    recipe = tiny("training.steps=2")
    train(recipe, tmp_path / "run")
    with pytest.raises(InputError, match="has a run already; say --resume"):
        train(recipe, tmp_path / "run")
    with checkpoint.lock(tmp_path / "run"), pytest.raises(InputError, match="is writing here"):
        train(recipe, tmp_path / "run", resume=True)


def test_the_last_step_is_exported_with_averaged_weights(tmp_path):
    exported = []
    run = train(tiny("training.steps=2", "training.ema=0.5"), tmp_path, hooks=Hooks(export=exported.append))
    assert exported == [run] and run.averaged is not run.model
    assert not torch.equal(run.averaged.embedding.weight, run.model.embedding.weight)
    assert prepare(tiny("training.ema=0.0"), tmp_path).averaged is not None


def test_averaged_weights_follow_the_formula(tmp_path):
    """ema <- d ema + (1 - d) weights, with d = min(ema, (1 + step) / (10 + step))."""
    run = prepare(tiny("training.ema=0.15"), tmp_path)
    want = run.model.embedding.weight.detach().clone()
    for step in range(3):
        training_step(run)
        decay = min(0.15, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * run.model.embedding.weight.detach()
    torch.testing.assert_close(run.averaged.embedding.weight, want)
