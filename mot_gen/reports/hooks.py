"""What training is handed from above: hooks, pipeline_of, sample_grid, evaluate, export.

Training knows no pipeline and no metric; here a run becomes a pipeline, for the pictures drawn and the metrics measured
on the way, and for the `model/` folder. Looking changes nothing: random state and modes are afterwards as before.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from mot_gen.backbone import lora
from mot_gen.eval.report import to_json, write_json
from mot_gen.eval.result import plain
from mot_gen.files.pictures import grid
from mot_gen.files.whole import writing_folder
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.recipe import Recipe
from mot_gen.reports.evaluator import Evaluator, Samples
from mot_gen.reports.guidance import choose_guidance, pairs_of
from mot_gen.training.checkpoint import random_state, set_random_state
from mot_gen.training.loop import Hooks, Run

log = logging.getLogger(__name__)

PROMPTS = 10  # captions of held-out samples that are drawn when a recipe names no prompts


def pipeline_of(run: Run, cls: type[MultimodalPipeline] = MultimodalPipeline) -> MultimodalPipeline:
    """The run's averaged model, its adapters merged, with its tokenizers and its objective's own scheduler."""
    model = lora.merged(run.averaged.eval())
    continuous = [m.name for m in model.modalities if not m.discrete]
    pipe = cls(
        model,
        text_tokenizer=run.tokenizers[model.modality_names[0]],
        image_tokenizer=run.tokenizers.get("image"),
        speech_tokenizer=run.tokenizers.get("speech"),
        sight_tokenizer=run.tokenizers.get("sight"),
        scheduler=model.objectives[continuous[0]].scheduler() if continuous else None,
        sampling=_sampling(run),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sampling(run: Run) -> dict:
    """The defaults of the run's pipelines."""
    stated = run.recipe.sampling
    return {**stated.model_dump(exclude={"choose_guidance", "published"}), **stated.published}


@contextmanager
def _aside(run: Run) -> Iterator[None]:
    """What happens within leaves the course of training as it is."""
    random, training = random_state(), run.averaged.training
    try:
        yield
    finally:
        set_random_state(random)
        run.averaged.train(training)


def sample_grid(run: Run) -> None:
    """Draw the recipe's prompts (or some held-out captions) into `samples/step-NNNNNNNN.png`; texts where the model has
    no pictures. The seed is the recipe's, so that the same noise is seen to become better pictures."""
    prompts = run.recipe.evaluation.prompts or _held_out_captions(run)
    generator = torch.Generator().manual_seed(run.recipe.training.seed)
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    name = f"step-{run.step:08d}"
    if prompts and "image" in run.tokenizers:
        images = pipeline_of(run, TextToImagePipeline)(prompts, generator=generator).images
        grid(images, columns=min(len(images), 10)).save(folder / f"{name}.png")
    elif prompts:
        texts = pipeline_of(run, TextGenerationPipeline)(prompts, return_full_text=True).texts
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def evaluate(run: Run, evaluator: Evaluator) -> dict:
    """Values by name for metrics.jsonl, and under "failed" why one is absent; the results with their provenance go to
    `evaluations/step-NNNNNNNN.json`. The seed is the recipe's, so that only the model changes between two of them."""
    evaluation = run.recipe.evaluation
    seed, count = run.recipe.training.seed, evaluation.samples
    results, failed = evaluator(
        Samples(partial(pipeline_of, run), run.splits.held_out, count, seed, evaluation.batch_size)
    )
    write_json(to_json(results, step=run.step, failed=failed), run.folder / "evaluations" / f"step-{run.step:08d}.json")
    for name, why in failed.items():
        log.warning("evaluation.metrics: %s failed at step %d: %s", name, run.step, why)
    return plain({name: result.value for name, result in results.items()} | ({"failed": failed} if failed else {}))


def _held_out_captions(run: Run) -> list[str]:
    samples = [run.splits.held_out[i] for i in range(min(PROMPTS, len(run.splits.held_out)))]
    return [sample.captions[0] for sample in samples if getattr(sample, "captions", ())]


def export(run: Run) -> Path:
    """Write `model/`, which every pipeline's `from_pretrained` reads: safetensors and JSON.

    It is whole or not written at all, and an earlier one is there until the new one takes its place.
    """
    final = run.folder / "model"
    if run.recipe.sampling.choose_guidance:
        with _aside(run):
            settle_guidance(run)
    with writing_folder(final) as part:
        pipeline_of(run).save_pretrained(part)
    if run.recipe.backbone.lora:
        lora.save(run.averaged, run.folder / "adapter", run.recipe.training.init)
    return final


def settle_guidance(run: Run) -> None:
    """Choose the guidance on held-out data, say so, and use it from here on: in `model/` and in what is measured."""
    pairs = pairs_of(run.splits)
    if not pairs or "image" not in run.tokenizers or not run.recipe.data.caption_dropout:
        return  # nothing to choose by, or nothing to choose: guidance needs training without captions
    print(f"choosing the guidance on {len(pairs)} held-out captions", file=sys.stderr, flush=True)
    strength, losses = choose_guidance(pipeline_of(run, TextToImagePipeline), pairs, run.recipe.training.seed)
    listed = ", ".join(f"{name}: {loss:.2f}" for name, loss in losses.items())
    print(f"guidance {strength:g}; nats of a caption by guidance: {listed}", file=sys.stderr, flush=True)
    run.recipe.sampling.guidance_scale = strength


def hooks(recipe: Recipe) -> Hooks:
    """Sample grids and metrics on the way, and the model folder at the end. InputError for metrics that are unknown or
    lack their weights."""
    evaluator = Evaluator(recipe.evaluation) if recipe.evaluation.every and recipe.evaluation.metrics else None

    def sample(run: Run) -> None:
        with _aside(run):
            sample_grid(run)

    def measure(run: Run) -> dict:
        with _aside(run):
            return evaluate(run, evaluator) if evaluator else {}

    return Hooks(sample=sample, evaluate=measure, export=export)
