"""CPU seconds of what people wait for: refusals, `info` and `plan`; and from a fresh interpreter to a PNG, by stage.

Commands are measured in processes of their own, in turn with one that imports torch alone, whose time says how fast the
machine is just now. The PNG is made with the command's fast start, and without.

Stages: torch, the pipeline's import, loading the checkpoint, 20 steps with guidance of one 64-token picture at 256 x 6,
writing it. Pixels in patches, and the latents of a small AutoencoderKL; untrained weights cost the same.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
STAGES = """
import json, sys, time
marks = [time.process_time()]
def mark(): marks.append(time.process_time())
if not {plain}:
    from mot_gen.commands import fast_start
    fast_start.install()
import torch; mark()
from mot_gen.pipelines.text_to_image import TextToImagePipeline; mark()
pipe = TextToImagePipeline.from_pretrained({folder!r}); mark()
pipe.set_progress_bar_config(disable=True)
(image,) = pipe("a red apple", num_inference_steps=20, guidance_scale=3.0).images; mark()
from mot_gen.files.pictures import save_png
from pathlib import Path
save_png(image, Path({folder!r}) / "apple.png"); mark()
stages = ("torch", "import", "load", "sample", "write")
print(json.dumps(dict(zip(stages, [b - a for a, b in zip(marks, marks[1:])])) | {{"all": marks[-1]}}))
"""


# Commands, and what they are: an input that cannot be used, or a question.
COMMANDS = {
    "refusal: an unknown recipe": "train no-such-recipe",
    "refusal: an unknown field": "train digits training.epoch=3",
    "refusal: no records there": "train pairs data.records=no/such.jsonl",
    "refusal: no such checkpoint": "generate no/such --to image --prompt a --out a.png",
    "refusal: a bad option": "generate openmoji --to image --prompt a --out a.png --guidance-scale -1",
    "refusal: no pictures to measure": "eval images no/such no/other",
    "refusal: an unknown metric": "eval text README.md --metrics bleux",
    "info": "info openmoji",
    "plan": "plan digits",
    "plan of many pictures": "plan openmoji",
}


def run(repeats: int = 3) -> Iterator[dict]:
    yield from _commands(repeats)
    yield from _pictures(repeats)


def _commands(repeats: int) -> Iterator[dict]:
    """The median of each command, and how many imports of torch that is."""
    torch = statistics.median(_cpu_seconds("-c", "import torch") for _ in range(repeats))
    for what, words in COMMANDS.items():
        seconds = statistics.median(_cpu_seconds("-m", "mot_gen", *words.split()) for _ in range(repeats))
        ratio = round(seconds / torch, 2)
        yield {"command": what, "cpu_seconds": round(seconds, 2), "over_importing_torch": ratio, "n": repeats}


def _cpu_seconds(*words: str) -> float:
    """Of a Python process, user and system, whatever its exit code is."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], env=ENVIRONMENT, cwd=ROOT, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _pictures(repeats: int) -> Iterator[dict]:
    for kind in ("patches", "latents"):
        with tempfile.TemporaryDirectory() as folder:
            _checkpoint(kind).save_pretrained(folder)
            measured = {"light": [], "plain": []}
            for _ in range(repeats):
                for way, found in measured.items():
                    found.append(_measure(folder, way == "plain"))
        for way, found in measured.items():
            yield {
                "cold_start_cpu_seconds": {
                    stage: round(statistics.median(each[stage] for each in found), 2) for stage in found[0]
                },
                "diffusers": way,
                "images": kind,
                "n": repeats,
            }


def _measure(folder: str, plain: bool) -> dict:
    code = STAGES.format(plain=plain, folder=folder)
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, cwd=ROOT, capture_output=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _checkpoint(kind: str):
    """An untrained text-to-image pipeline for 32 x 32 pictures of 64 tokens."""
    from mot_gen.model import MultimodalModel
    from mot_gen.pipelines.text_to_image import TextToImagePipeline
    from mot_gen.tokenizers.text import TextTokenizer

    text = TextTokenizer.train(["a red apple on a table"], 300)
    images = _patches() if kind == "patches" else _latents()
    model = MultimodalModel(
        modalities=[vars(text.modality), vars(images.modality)],
        backbone={"kind": "mot", "dim": 256, "layers": 6, "heads": 4},
    )
    scheduler = model.objectives["image"].scheduler()
    return TextToImagePipeline(model, text_tokenizer=text, image_tokenizer=images, scheduler=scheduler)


def _patches():
    from mot_gen.tokenizers.image_patch import PatchImageTokenizer

    return PatchImageTokenizer((32, 32), 4)


def _latents():
    from diffusers import AutoencoderKL

    from mot_gen.tokenizers.image_latent import LatentImageTokenizer

    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}
    vae = AutoencoderKL(block_out_channels=[32, 64, 64], latent_channels=8, **blocks)
    return LatentImageTokenizer.from_autoencoder(vae, (32, 32))


if __name__ == "__main__":
    for result in run():
        print(json.dumps(result), flush=True)
