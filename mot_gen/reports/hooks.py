"""What the training loop calls on the way: hooks, which makes them; pipeline_of, sample_grid, evaluate, export.

Training knows no pipeline and no metric. Here a run becomes a pipeline, to draw samples and measure metrics on the way,
and to write the `model/` folder. Looking changes nothing: random state and modes are afterwards as before.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from mot_gen.backbone import lora
from mot_gen.files.atomic import write_text, writing_folder
from mot_gen.files.pictures import grid, save_png
from mot_gen.pipelines.base import MultimodalPipeline, scheduler_of
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.recipes.recipe import Recipe
from mot_gen.reports.answers import write_answers
from mot_gen.reports.generated import HeldOut, MakePipeline, draw
from mot_gen.reports.guidance import STRENGTHS, choose_guidance, held_out_pairs
from mot_gen.training.loop import Hooks, Run
from mot_gen.training.random_state import random_state, set_random_state

if TYPE_CHECKING:
    from mot_gen.model import MultimodalModel
    from mot_gen.reports.evaluator import Evaluator

log = logging.getLogger(__name__)

P = TypeVar("P", bound=MultimodalPipeline)
PROMPTS = 10  # captions of held-out samples that are drawn when a recipe names no prompts


@overload
def pipeline_of(run: Run) -> MultimodalPipeline: ...


@overload
def pipeline_of(run: Run, cls: type[P]) -> P: ...


def pipeline_of(run: Run, cls: type[MultimodalPipeline] = MultimodalPipeline) -> MultimodalPipeline:
    """The run's averaged model, its adapters merged, with its tokenizers and its objective's own scheduler."""
    model = cast("MultimodalModel", lora.merged(run.averaged.eval()))
    pipe = cls(
        model,
        text_tokenizer=run.tokenizers[model.modality_names[0]],
        image_tokenizer=run.tokenizers.get("image"),
        speech_tokenizer=run.tokenizers.get("speech"),
        sight_tokenizer=run.tokenizers.get("sight"),
        vector_tokenizer=run.tokenizers.get("vector"),
        scheduler=scheduler_of(model),
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
    """Within, nothing changes the course of training: random state and modes are restored."""
    random, training = random_state(), run.averaged.training
    try:
        yield
    finally:
        set_random_state(random)
        run.averaged.train(training)


def sample_grid(run: Run) -> None:
    """Draw the recipe's prompts (or some held-out captions) into `samples/step-NNNNNNNN.png`, with the prompts in a
    text chunk. A model without pictures writes texts instead. The seed is the recipe's, so that the same noise is
    seen to become better pictures."""
    prompts = run.recipe.evaluation.prompts or _held_out_captions(run)
    path = run.folder / "samples" / f"step-{run.step:08d}.png"
    pictures = run.tokenizers.get("image")
    if prompts and pictures is not None and getattr(pictures, "decodes", True):
        seed = run.recipe.training.seed
        images = list(draw(pipeline_of(run, TextToImagePipeline), prompts, range(seed, seed + len(prompts))))
        save_png(grid(images, columns=min(len(images), 10)), path, {"prompts": json.dumps(prompts, ensure_ascii=False)})
    elif prompts:
        texts = pipeline_of(run, TextGenerationPipeline)(prompts, return_full_text=True).texts
        write_text(path.with_suffix(".txt"), "\n".join(texts) + "\n")


def evaluate(run: Run, evaluator: Evaluator, held_out: HeldOut) -> dict:
    """Values by name for metrics.jsonl, and under "failed" why one is absent; the results with their provenance go to
    `evaluations/step-NNNNNNNN.json`. The seed is the recipe's, so that only the model changes between two of them."""
    from mot_gen.eval.report import to_json, write_json
    from mot_gen.eval.result import plain
    from mot_gen.reports.evaluator import GeneratedSamples

    seed, size = run.recipe.training.seed, run.recipe.evaluation.batch_size
    results, failed = evaluator(GeneratedSamples(cast("MakePipeline", partial(pipeline_of, run)), held_out, seed, size))
    write_json(to_json(results, step=run.step, failed=failed), run.folder / "evaluations" / f"step-{run.step:08d}.json")
    for name, why in failed.items():
        log.warning("evaluation.metrics: %s failed at step %d: %s", name, run.step, why)
    found: dict[str, Any] = {name: result.value for name, result in results.items()}
    if failed:
        found["failed"] = failed
    return plain(found)


def _held_out_captions(run: Run) -> list[str]:
    samples: list[Any] = [run.splits.held_out[i] for i in range(min(PROMPTS, len(run.splits.held_out)))]
    return [sample.captions[0] for sample in samples if getattr(sample, "captions", ())]


def export(run: Run) -> Path:
    """Write `model/`, which every pipeline's `from_pretrained` reads: safetensors and JSON, and what the data list of
    answers.

    It is whole or not written at all, and an earlier one is there until the new one takes its place.
    """
    final = run.folder / "model"
    if run.recipe.sampling.choose_guidance:
        with _aside(run):
            settle_guidance(run)
    with writing_folder(final) as part:
        pipeline_of(run).save_pretrained(part)
        write_answers(part, run.recipe.data.source)
    if run.recipe.backbone.lora:
        lora.save(run.averaged, run.folder / "adapter", run.recipe.training.init)
    return final


def settle_guidance(run: Run) -> None:
    """Choose the guidance on held-out data, say so, and use it from here on: in `model/` and in what is measured."""
    pairs = held_out_pairs(run.splits)
    if not pairs or "image" not in run.tokenizers or not run.recipe.data.caption_dropout:
        return  # nothing to choose by, or nothing to choose: guidance needs training without captions
    notice = (
        f"choosing the guidance on {len(pairs)} held-out captions, at {len(STRENGTHS)} strengths, which takes a while"
    )
    print(notice, file=sys.stderr, flush=True)
    strength, losses = choose_guidance(pipeline_of(run, TextToImagePipeline), pairs, run.recipe.training.seed)
    listed = ", ".join(f"{name}: {loss:.2f}" for name, loss in losses.items())
    if strength is None:
        kept = f"guidance stays {run.recipe.sampling.guidance_scale:g}: the model does not tell pictures apart yet"
        print(f"{kept}; nats of a caption by picture: {listed}", file=sys.stderr, flush=True)
        return
    print(f"guidance {strength:g}; nats of a caption by guidance: {listed}", file=sys.stderr, flush=True)
    run.recipe.sampling.guidance_scale = strength


def hooks(recipe: Recipe) -> Hooks:
    """Sample grids and metrics on the way, and the model folder at the end. InputError for metrics that are unknown or
    lack their weights."""
    evaluator = None
    if recipe.evaluation.every and recipe.evaluation.metrics:
        # Metrics bring torchmetrics and torchvision, for which a run that measures nothing does not wait.
        from mot_gen.reports.evaluator import Evaluator

        evaluator = Evaluator(recipe.evaluation)
    held_out: list[HeldOut] = []  # made once, so that its pictures are tokenised once

    def sample(run: Run) -> None:
        with _aside(run):
            sample_grid(run)

    def measure(run: Run) -> dict:
        if evaluator is None:
            return {}
        if not held_out:
            held_out.append(HeldOut(run.splits.held_out, recipe.evaluation.samples))
        with _aside(run):
            return evaluate(run, evaluator, held_out[0])

    return Hooks(sample=sample, evaluate=measure, export=export)
