"""Going on: what may change, what is refused with every difference, what is damaged, and where nothing has begun."""

import json
import os
import shutil
import signal

import pytest
from tiny_runs import SMALL

from mot_gen.errors import Diverged, InputError, Interrupted
from mot_gen.recipes.recipe import load_recipe
from mot_gen.training import checkpoint
from mot_gen.training.loop import REPORT, Hooks, prepare, train
from mot_gen.training.optimizer import MAX_SKIPPED

TINY = [
    *SMALL,
    "data.window=48",
    "training.steps=4",
    "training.warmup_steps=2",
    "training.log_every=1",
    "training.checkpoint_every=2",
]


def tiny(*overrides):
    return load_recipe("digits", [*TINY, *overrides])


def steps_in(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(tiny(), folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A folder of four steps, two checkpoints, which a test may spoil."""
    return shutil.copytree(finished, tmp_path / "run")


def test_resuming_where_there_is_nothing_begins_and_says_so(tmp_path, capsys):
    assert train(tiny(), tmp_path / "new", resume=True).step == 4
    assert "has no checkpoint to go on from, so training begins" in capsys.readouterr().err


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_without_a_checkpoint_can_be_begun_again(tmp_path, resume):
    """It was killed while its first checkpoint was written: what it left is swept, its metrics are not mixed in."""
    (tmp_path / "checkpoints" / ".saving-step-00000002").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "losses": {}}\n')
    train(tiny(), tmp_path, resume=resume)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert steps_in(tmp_path) == ["step-00000002", "step-00000004"]


def test_another_recipe_is_refused_with_every_difference(run):
    others = ["backbone.dim=24", "backbone.layers=2", "objectives.image.prediction=sample", "training.optimizer=muon"]
    with pytest.raises(InputError, match="was begun with another recipe") as error:
        train(tiny(*others, "tokenizers.text.vocab_size=300"), run, resume=True)
    for field in ("backbone.dim: 16 -> 24", "backbone.layers: 1 -> 2", "objectives.image.prediction", "vocab_size"):
        assert field in str(error.value)
    assert "\n" not in str(error.value)
    assert load_recipe(run / "recipe.yaml") == tiny()


def test_what_may_change_may_change_and_is_said(run, capsys):
    changed = ["training.steps=6", "training.lr=1e-3", "training.log_every=2", "sampling.guidance_scale=2.0"]
    (run / "model").mkdir(exist_ok=True)
    assert train(tiny(*changed), run, resume=True).step == 6
    said = capsys.readouterr().err
    assert f"{run / 'model'}: is an earlier one until training ends" in said
    assert "goes on with training.lr: 0.002 -> 0.001" in said and "guidance_scale" not in said


def test_a_recipe_of_an_earlier_version_lacks_fields_and_goes_on(run):
    path = run / "recipe.yaml"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "max_corrupt" not in line))
    assert train(tiny("training.steps=5"), run, resume=True).step == 5


def test_fewer_steps_than_were_made_are_refused(run):
    with pytest.raises(InputError, match=r"training\.steps: asks for 3, and .* has made 4"):
        train(tiny("training.steps=3"), run, resume=True)


def test_other_tokenizers_are_refused_also_where_changed_data_is_accepted(run):
    text = run / "tokenizers" / "text" / "tokenizer.json"
    fields = json.loads(text.read_text())
    vocabulary = fields["model"]["vocab"]
    one, other = list(vocabulary)[:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    text.write_text(json.dumps(fields))
    with pytest.raises(InputError, match="its tokenizers are not those that the checkpoint was trained with"):
        train(tiny("training.steps=6", "data.accept_changed=true"), run, resume=True)


def test_a_copy_of_a_checkpoint_is_no_checkpoint(run):
    shutil.copytree(run / "checkpoints" / "step-00000004", run / "checkpoints" / "step-00000004.bak")
    assert train(tiny("training.steps=5"), run, resume=True).step == 5


def newest(run):
    return run / "checkpoints" / "step-00000004"


def goes_on_from_the_one_before(run, caplog, why):
    made = train(tiny("training.keep_checkpoints=5"), run, resume=True)
    assert made.step == 4 and why in caplog.text


def test_weights_that_a_manifest_does_not_list_are_damage(run, caplog):
    (newest(run) / "manifest.json").write_text('{"step": 4, "files": {}}')
    goes_on_from_the_one_before(run, caplog, "is not listed in manifest.json")


def test_shards_of_another_step_beside_the_listed_ones_are_damage(run, caplog):
    before = run / "checkpoints" / "step-00000002"
    shard = next(before.glob("*model*.safetensors"))
    shutil.copy(shard, newest(run) / f"shard-9-{shard.name}")
    goes_on_from_the_one_before(run, caplog, "is not listed in manifest.json")


def test_a_manifest_that_lists_a_file_outside_is_damage(run, caplog):
    path = newest(run) / "manifest.json"
    listed = json.loads(path.read_text())
    listed["files"]["../../recipe.yaml"] = {"size": 1, "sha256": "0"}
    path.write_text(json.dumps(listed))
    goes_on_from_the_one_before(run, caplog, "lies outside of the folder")


@pytest.mark.parametrize(
    "content",
    ["[]", '{"format": 2}', '{"format": 2, "step": 4, "state": {"counters": 5}}', "[" * 100_000],
    ids=["list", "no state", "other counters", "nested"],
)
def test_a_state_of_another_shape_is_named_in_one_line(run, content):
    from mot_gen.files import manifest

    (newest(run) / "state.json").write_text(content)
    manifest.write(newest(run), {"step": 4})
    with pytest.raises(InputError, match=r"state\.json: ") as error:
        train(tiny("training.steps=5"), run, resume=True)
    assert "\n" not in str(error.value)


def test_garbage_in_the_metrics_is_dropped(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'5\n\xff\xfe\n[1]\n{"step": null}\n{"st')
    train(tiny("training.steps=5"), run, resume=True)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_bad_steps_leave_the_good_checkpoints_and_the_end_names_one(run, monkeypatch):
    """Nothing is saved while steps are skipped, so nothing is rotated away."""
    recipe = tiny("training.steps=60", "training.keep_checkpoints=1")

    def spoiled(*arguments):
        made = prepare(*arguments)
        made.model.register_forward_hook(lambda module, given, output: _times_nan(output))
        return made

    monkeypatch.setattr("mot_gen.training.loop.prepare", spoiled)
    expected = rf"not finite in {MAX_SKIPPED} steps in a row; the last good checkpoint is .*step-00000004; .*--resume"
    with pytest.raises(Diverged, match=expected):
        train(recipe, run, resume=True)
    assert steps_in(run) == ["step-00000002", "step-00000004"]
    assert checkpoint.finite(newest(run))


def _times_nan(output):
    if hasattr(output, "total"):
        output.total = output.total * float("nan")
    return output


def test_a_checkpoint_is_removed_once_a_later_step_was_sound(tmp_path):
    recipe = tiny("training.keep_checkpoints=1", "training.checkpoint_every=1")
    train(recipe, tmp_path)
    assert steps_in(tmp_path) == ["step-00000004"]


def test_a_finished_run_is_not_measured_again(tmp_path):
    seen = []

    def conclude(run):
        seen.append(run.step)
        (run.folder / REPORT).write_text("{}")

    for steps in (2, 2, 3):
        train(tiny(f"training.steps={steps}"), tmp_path, resume=True, hooks=Hooks(conclude=conclude))
    assert seen == [2, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["prepare", "export", "conclude"])
def test_a_signal_outside_of_the_steps_ends_with_a_line(tmp_path, monkeypatch, when, number):
    before = signal.getsignal(number)

    def stop(*arguments):
        os.kill(os.getpid(), number)

    if when == "prepare":
        monkeypatch.setattr("mot_gen.training.loop.prepare", stop)
    hooks = Hooks(**{when: stop}) if when != "prepare" else Hooks()
    said = "stopped before the first step; the same command" if when == "prepare" else "stopped after the last step"
    with pytest.raises(Interrupted, match=said):
        train(tiny(), tmp_path, hooks=hooks)
    monkeypatch.undo()
    assert signal.getsignal(number) is before
    assert train(tiny(), tmp_path, resume=True).step == 4


def test_the_folder_is_held_until_everything_is_written(tmp_path):
    def second(run):
        with pytest.raises(InputError, match="is writing here"):
            train(tiny(), tmp_path, resume=True)

    train(tiny(), tmp_path, hooks=Hooks(conclude=second))


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("tokenizers.image.patch_size=3", r"tokenizers\.image\.patch_size"),
        ("tokenizers.text.vocab_size=10", "vocab_size"),
    ],
)
def test_tokenizers_that_cannot_be_leave_nothing_behind(tmp_path, override, field):
    with pytest.raises(InputError, match=field):
        train(tiny(override), tmp_path / "run")
    assert not (tmp_path / "run").exists()
