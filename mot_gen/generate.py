"""What `mot-gen generate` and `mot-gen info` do: Request, generate, describe, model_folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mot_gen.errors import InputError
from mot_gen.flops import count_parameters
from mot_gen.manifest import sha256
from mot_gen.pictures import save_png
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.interleaved import InterleavedPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Request:
    """One call of the command; None means the checkpoint's own default."""

    to: str
    prompt: str | None = None
    image: str | None = None
    out: str | None = None
    num: int = 1
    seed: int = 0
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None

    def __post_init__(self):
        if self.num < 1:
            raise InputError(f"--num must be at least 1, got {self.num}")
        if self.to == "image" and self.prompt is None:
            raise InputError("--to image needs --prompt TEXT")
        if self.to == "image" and self.out is None:
            raise InputError("--to image needs --out FILE.png, or a folder")
        if self.to == "text" and self.prompt is None and self.image is None:
            raise InputError("--to text needs --image FILE, --prompt TEXT, or both")


def model_folder(checkpoint: str | Path) -> Path:
    """The folder with `model_index.json`: the one given, or `model/` in it; InputError where there is none."""
    given = Path(checkpoint)
    for folder in (given, given / "model"):
        if (folder / INDEX).is_file():
            return folder
    if (given / "checkpoints").is_dir():
        raise InputError(f"{given}: is a run that has not ended, so it has no model/ yet; finish it with --resume")
    raise InputError(f"{given}: no {INDEX} there or in its model/ folder; give a run's folder or its model/ folder")


def load_pipeline(cls: type[MultimodalPipeline], checkpoint: str | Path) -> MultimodalPipeline:
    """A pipeline of the checkpoint; InputError that names the folder where its files cannot be read."""
    from safetensors import SafetensorError

    folder = model_folder(checkpoint)
    try:
        pipe = cls.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError, KeyError) as error:
        raise InputError(f"{folder}: cannot be loaded, is it complete? {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def generate(checkpoint: str | Path, request: Request) -> list[dict]:
    """Do what a request asks; a dict a sample, with `text`, or `file` where something was written."""
    make = {"image": _images, "text": _texts, "any": _documents}[request.to]
    return make(checkpoint, request, torch.Generator().manual_seed(request.seed))


def _images(checkpoint, request: Request, generator) -> list[dict]:
    pipe = load_pipeline(TextToImagePipeline, checkpoint)
    images = pipe(
        request.prompt,
        num_images_per_prompt=request.num,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=generator,
    ).images
    about = asdict(request) | {"model_sha256": weights_sha256(checkpoint)}
    made = []
    for image, path in zip(images, _paths(request.out, request.num, ".png")):
        save_png(image, path, about)
        made.append({"file": str(path), "prompt": request.prompt, "seed": request.seed})
    return made


def _text_options(request: Request, generator) -> dict:
    given = {"max_new_tokens": request.max_new_tokens, "temperature": request.temperature, "top_p": request.top_p}
    options = {name: value for name, value in given.items() if value is not None}
    return {**options, "do_sample": bool(request.temperature), "generator": generator if request.temperature else None}


def _texts(checkpoint, request: Request, generator) -> list[dict]:
    options = _text_options(request, generator)
    if request.image is not None:
        pipe = load_pipeline(ImageToTextPipeline, checkpoint)
        texts = pipe([request.image] * request.num, prompt=request.prompt, **options).texts
    else:
        pipe = load_pipeline(TextGenerationPipeline, checkpoint)
        texts = pipe([request.prompt] * request.num, **options).texts
    if request.out:
        for text, path in zip(texts, _paths(request.out, request.num, ".txt")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")
    return [{"text": text} for text in texts]


def _documents(checkpoint, request: Request, generator) -> list[dict]:
    pipe = load_pipeline(InterleavedPipeline, checkpoint)
    prompt = [part for part in (request.prompt, request.image and Path(request.image)) if part]
    options = _text_options(request, generator) | {"generator": generator}
    documents = pipe(
        prompt,
        num_samples=request.num,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        **options,
    ).documents
    made = []
    for number, document in enumerate(documents):
        segments = []
        for place, segment in enumerate(document):
            if not isinstance(segment, str):
                if request.out is None:
                    raise InputError("--to any drew a picture; say where pictures go with --out FOLDER")
                path = Path(request.out) / f"{number:04d}-{place:02d}.png"
                save_png(segment, path, asdict(request))
                segment = str(path)
            segments.append(segment)
        made.append({"text": "\n".join(segments), "segments": segments})
    return made


def _paths(out: str, count: int, suffix: str) -> list[Path]:
    """One path a sample: the file itself, numbered files beside it, or numbered files in a folder."""
    path = Path(out)
    if path.suffix.lower() != suffix:
        if path.suffix and not path.is_dir():
            raise InputError(f"--out {out}: must end in {suffix}, or be a folder")
        return [path / f"{number:04d}{suffix}" for number in range(count)]
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number:04d}") for number in range(count)]


def weights_sha256(checkpoint: str | Path) -> str:
    """sha256 of the model's weights, the fingerprint that is written into what it makes."""
    return sha256(model_folder(checkpoint) / "model" / WEIGHTS)


def describe(checkpoint: str | Path) -> dict:
    """Facts about a checkpoint: modalities, backbone, parameters, sampling defaults, hash."""
    pipe = load_pipeline(MultimodalPipeline, checkpoint)
    model, parameters = pipe.model, count_parameters(pipe.model)
    sizes = [f"{m.name} ({m.vocab_size or m.channels} {'ids' if m.discrete else 'channels'})" for m in model.modalities]
    objectives = ", ".join(f"{name}: {type(o).__module__.rsplit('.', 1)[-1]}" for name, o in model.objectives.items())
    return {
        "folder": str(model_folder(checkpoint)),
        "modalities": ", ".join(sizes),
        "objectives": objectives,
        "backbone": json.dumps(model.config.backbone),
        "towers": ", ".join(model.backbone.towers),
        "active_parameters": parameters.active,
        "total_parameters": parameters.total,
        "context": model.config.context,
        "sampling": json.dumps(pipe.config.sampling),
        "weights_sha256": weights_sha256(checkpoint),
    }
