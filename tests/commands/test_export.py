"""`mot-gen export`: half precision, shards, runs that have not ended, and what it refuses."""

import json
import logging
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mot_gen.commands.export import pipeline_to_export
from mot_gen.commands.main import main
from mot_gen.files import manifest
from mot_gen.pipelines.loaded import load_pipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.recipe import load_recipe
from mot_gen.reports.hooks import export, hooks
from mot_gen.training.checkpoint_folders import steps_of
from mot_gen.training.loop import train

TINY = [
    "data.window=48",
    "tokenizers.text.vocab_size=270",
    "backbone.dim=32",
    "backbone.layers=2",
    "backbone.heads=2",
    "training.rows=2",
    "training.row_length=96",
    "training.steps=2",
    "training.checkpoint_every=1",
    "training.sample_every=0",
    "training.device=cpu",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    recipe = load_recipe("digits", TINY)
    return train(recipe, folder, hooks=hooks(recipe))


class Into(logging.Handler):
    """Puts what is logged into a list."""

    def __init__(self, said: list[str]):
        super().__init__()
        self.said = said

    def emit(self, record):
        self.said.append(record.getMessage())


def test_half_precision_in_shards_loads_as_the_run_itself(run, tmp_path, monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(logging.getLogger("diffusers.models.modeling_utils"), "handlers", [Into(warned)])
    out = tmp_path / "out"
    assert main(["export", str(run.folder), str(out), "--dtype", "fp16", "--max-shard-size", "40KB"]) == 0
    assert warned == []
    assert not any("_name_or_path" in path.read_text() for path in out.rglob("*.json"))
    shards = sorted((out / "model").glob("*.safetensors"))
    assert len(shards) > 1
    weights = {name: value for shard in shards for name, value in load_file(shard).items()}
    assert {value.dtype for value in weights.values()} == {torch.float16}
    whole, half = (load_pipeline(TextToImagePipeline, folder) for folder in (run.folder, out))
    assert half.model.dtype == torch.float32  # a CPU has no use for less
    for name, value in whole.model.named_parameters():
        assert torch.equal(half.model.get_parameter(name), value.half().float()), name
    options = {"num_inference_steps": 2, "output_type": "pt"}
    pictures = [p("a seven", generator=torch.Generator().manual_seed(0), **options).images for p in (whole, half)]
    torch.testing.assert_close(*pictures, atol=0.02, rtol=0)


def test_what_the_data_list_of_answers_stands_beside_the_model(run, tmp_path, monkeypatch):
    """At the end of training, and of a run that ended before its data listed any."""
    stated = {"en": {"question": "what?", "phrases": ["{}"], "names": ["a seven", "a nine"]}}
    monkeypatch.setattr("mot_gen.datasets.digits.answers", lambda: stated, raising=False)
    assert not (run.folder / "model" / "answers.json").exists()
    assert main(["export", str(run.folder), str(tmp_path / "out")]) == 0
    assert load_pipeline(TextToImagePipeline, tmp_path / "out").languages.question("en") == "what?"
    assert manifest.damage(tmp_path / "out") is None
    kept = tmp_path / "kept"
    (run.folder / "model").rename(kept)
    try:
        written = export(run) / "model" / "answers.json"
        assert json.loads(written.read_text(encoding="utf-8")) == stated
    finally:
        shutil.rmtree(run.folder / "model", ignore_errors=True)
        kept.rename(run.folder / "model")


def test_a_run_that_has_not_ended_is_exported_from_its_newest_checkpoint_and_left_as_it_is(run, tmp_path):
    (run.folder / "model").rename(tmp_path / "ended")
    before = (run.folder / "metrics.jsonl").read_bytes()
    try:
        for name, value in pipeline_to_export(run.folder).model.named_parameters():
            assert torch.equal(value, run.averaged.get_parameter(name)), name
    finally:
        (tmp_path / "ended").rename(run.folder / "model")
    assert (run.folder / "metrics.jsonl").read_bytes() == before


def test_a_run_that_went_on_after_its_end_is_exported_from_its_newest_checkpoint(run, tmp_path, monkeypatch):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    taken = []
    monkeypatch.setattr("mot_gen.commands.export._unfinished", lambda path: taken.append(path))
    pipeline_to_export(folder)
    assert not taken  # its model is the newest
    written = os.stat(folder / "model" / "manifest.json").st_mtime
    (newest,) = steps_of(folder)[:1]
    os.utime(newest / "manifest.json", (written + 1, written + 1))
    pipeline_to_export(folder)
    assert taken == [folder]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["nowhere", "{out}"], "nowhere: no such folder"),
        (["{run}", "{run}"], "is there already; give another folder"),
        (["{run}", "{out}", "--max-shard-size", "big"], "--max-shard-size big: give a number"),
        (["{run}", "{out}", "--dtype", "int8"], "invalid choice: 'int8'"),
    ],
)
def test_what_is_refused_writes_nothing(run, tmp_path, capsys, arguments, complaint):
    out = tmp_path / "out"
    assert main(["export", *(a.format(run=run.folder, out=out) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
