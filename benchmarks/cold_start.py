"""CPU seconds from a fresh interpreter to a PNG, by stage: with the command's fast start, and without.

Stages: torch, the pipeline's import, loading the checkpoint, 20 steps with guidance of one 64-token picture at 256 x 6,
writing it. Pixels in patches, and the latents of a small AutoencoderKL; untrained weights cost the same.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

STAGES = """
import json, sys, time
marks = [time.process_time()]
def mark(): marks.append(time.process_time())
import torch; mark()
if not {plain}:
    from mot_gen.commands import fast_start
    fast_start.install()
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


def run(repeats: int = 3) -> Iterator[dict]:
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
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[1], capture_output=True, check=True
    )
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
