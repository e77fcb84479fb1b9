"""What training is handed from above: hooks, pipeline_of, sample_grid, export.

Training knows no pipeline; here a run becomes one, for the pictures drawn on the way and for the `model/` folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from mot_gen.pictures import grid
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.training.loop import Hooks, Run

PROMPTS = 10  # captions of held-out samples that are drawn when a recipe names no prompts


def pipeline_of(run: Run, cls: type[MultimodalPipeline] = MultimodalPipeline) -> MultimodalPipeline:
    """The run's averaged model with its tokenizers and its objective's own scheduler."""
    model = run.averaged.eval()
    continuous = [m.name for m in model.modalities if not m.discrete]
    pipe = cls(
        model,
        text_tokenizer=run.tokenizers[model.modality_names[0]],
        image_tokenizer=run.tokenizers.get("image"),
        speech_tokenizer=run.tokenizers.get("speech"),
        scheduler=model.objectives[continuous[0]].scheduler() if continuous else None,
        sampling=run.recipe.sampling.model_dump(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


def _held_out_captions(run: Run) -> list[str]:
    samples = [run.splits.held_out[i] for i in range(min(PROMPTS, len(run.splits.held_out)))]
    return [sample.captions[0] for sample in samples if getattr(sample, "captions", ())]


def export(run: Run) -> Path:
    """Write `model/`, which every pipeline's `from_pretrained` reads: safetensors and JSON; whole or not at all."""
    final, written = run.folder / "model", run.folder / ".model-new"
    shutil.rmtree(written, ignore_errors=True)
    pipeline_of(run).save_pretrained(written)
    shutil.rmtree(final, ignore_errors=True)
    written.rename(final)
    return final


def hooks() -> Hooks:
    """Sample grids on the way, and the model folder at the end."""
    return Hooks(sample=sample_grid, export=export)
