"""Golden entries of the shipped checkpoint: ids of captions, pictures, edited pictures, documents, `generate`.

Each takes `half`: whether weights are in half storage.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

import mot_gen
from benchmarks.golden_tools import CHECKPOINT, command, digest, loaded, picture, scratch, seeds, told


@cache
def given() -> dict[str, Image.Image]:
    """Fixed ones: a red ball, a yellow face on blue, and noise."""
    ball, face = Image.new("RGB", (32, 32), "white"), Image.new("RGB", (48, 40), (60, 100, 220))
    ImageDraw.Draw(ball).ellipse((6, 7, 26, 27), fill=(220, 40, 50), outline="black")
    draw = ImageDraw.Draw(face)
    draw.ellipse((8, 4, 40, 36), fill=(250, 210, 50), outline="black")
    for left in (17, 27):
        draw.ellipse((left, 13, left + 4, 18), fill="black")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return {"ball": ball, "face": face, "noise": Image.fromarray(noise)}


class Ids(list):
    """A streamer that keeps the ids it is given; the first are the prompt's."""

    def put(self, values) -> None:
        self += values.reshape(-1).tolist()

    def end(self) -> None:
        pass


def captions(half: bool) -> dict:
    """Ids and texts of the fixed pictures: greedy, sampled by two seeds, and after the beginning of a caption."""
    pipe = loaded(mot_gen.ImageToTextPipeline, half=half)
    sampled = {"do_sample": True, "temperature": 1.5, "top_k": 40, "top_p": 0.95}
    ways = {"greedy": {}, "prompted": {"prompt": "a small"}}
    ways |= {f"seed {seed}": sampled | {"seed": seed} for seed in (0, 1)}
    return {
        name: {way: _caption(pipe, image, **options) for way, options in ways.items()}
        for name, image in given().items()
    }


def _caption(pipe, image: Image.Image, seed: int = 0, **options) -> dict:
    ids = Ids()
    texts = pipe(image, streamer=ids, generator=seeds(1, seed)[0], max_new_tokens=24, **options).texts
    return {"ids": ids, "text": texts[0]}


def pictures(half: bool) -> dict:
    """Pictures by seed, with the checkpoint's own guidance, with more, with a negative prompt, and without."""
    pipe = loaded(mot_gen.TextToImagePipeline, half=half)
    ways = {
        "as shipped": {},
        "guided": {"guidance_scale": 4.0, "guidance_rescale": 0.5, "guidance_interval": (0.1, 0.9)},
        "away": {"negative_prompt": "on blue"},
        "unguided": {"guidance_scale": 1.0},
    }
    prompts = ["red apple", "small pizza, top left, on green", "roter apfel, auf Gelb"]
    found = {}
    for way, options in ways.items():
        images = pipe(prompts, generator=seeds(3), num_inference_steps=8, **options).images
        found[way] = {prompt: picture(image) for prompt, image in zip(prompts, images)}
    latents = pipe(prompts, generator=seeds(3), num_inference_steps=8, output_type="latent").images
    return found | {"latents": digest(latents), "latent_mean": float(latents.double().mean())}


def changes(half: bool) -> dict:
    """The ball, edited, varied and inpainted."""
    pipe, ball = loaded(mot_gen.ImageToImagePipeline, half=half), given()["ball"]
    mask = Image.new("L", ball.size, 0)
    mask.paste(255, (0, 0, 16, 32))
    ways = {
        "edited": {"image_guidance_scale": 1.5},
        "varied": {"strength": 0.6},
        "inpainted": {"mask_image": mask},
    }
    asked = {"prompt": "red apple", "image": ball, "num_inference_steps": 8}
    return {way: picture(pipe(**asked, **ways[way], generator=seeds(1)[0]).images[0]) for way in ways}


def documents(half: bool) -> dict:
    """Texts continued, and documents of texts and pictures."""
    pipe = loaded(mot_gen.InterleavedPipeline, half=half)
    asked = {"modality_order": ["text", "image", "text"], "max_new_tokens": 12, "num_inference_steps": 6}
    found = [pipe([prompt], **asked, generator=seeds(1)[0]).documents[0] for prompt in ("a red", "die")]
    texts = mot_gen.TextGenerationPipeline(**pipe.components)(["red", "a small", "roter apfel, auf"]).texts
    return {"texts": texts, "documents": [[_segment(each) for each in segments] for segments in found]}


def _segment(each) -> object:
    return picture(each) if isinstance(each, Image.Image) else each


def generate(half: bool) -> dict:
    """The command: a picture with what is written into it, and its caption."""
    out, dtype = scratch() / f"generated-{half}.png", "fp16" if half else "fp32"
    options = ["--seed", "3", "--dtype", dtype, "--json"]
    command("generate", CHECKPOINT, "--to", "image", "--prompt", "penguin, on green", "--out", str(out), *options)
    with Image.open(out) as image:
        found = {"picture": picture(image), "about": told(dict(image.text))}
    said = command("generate", CHECKPOINT, "--to", "text", "--image", str(out), *options)
    return found | {"caption": told(json.loads(said))}
