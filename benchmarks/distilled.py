"""A smaller OpenMoji model beside the one that taught it: `python -m benchmarks.distilled STUDENT` prints JSON.

STUDENT: a run; a second folder or name is the teacher, openmoji by default. Both draw and caption in one process, by
the checkpoints' own defaults and with one seed a picture; the judge is benchmarks/scene_judge.py.

names           every name of the training set asked for alone: the share that is drawn right
captions        of renderings of combinations that training never showed: the share whose name is right
seconds         CPU seconds of a drawing, and of a caption of 12 tokens, so that both write as much
ratio           the student's over the teacher's

--limit N: the first names and combinations alone. --repeats N: of each timed call, in turn.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import torch
from torch import Tensor

from benchmarks import alternate
from benchmarks.openmoji import SIZE, Measurement, Model, alone, share
from benchmarks.scene_judge import labels_of, pictures_of
from mot_gen.pipelines.engine.stream import Stream

TOKENS = 12  # of a caption whose time is taken


def quality(found: Measurement) -> dict[str, dict]:
    """What the judge says of drawn names, and how many captions are right."""
    wanted = labels_of(found.names)["name"]
    names = share(found.judge.predict(found.drawn_names)["name"] == wanted)
    return {"names": names, "captions": found.captions()["name"]}


def seconds(models: dict[str, Model], repeats: int) -> dict[str, dict[str, float]]:
    """Of a drawing and of a caption, by model."""
    scene = alone("train")[0]
    picture = pictures_of([scene], SIZE)[0] / 255
    drawing = {name: partial(model.draw, [scene.caption("plain")]) for name, model in models.items()}
    caption = {name: partial(write, model, picture) for name, model in models.items()}
    return {"drawing": alternate(drawing, repeats), "caption": alternate(caption, repeats)}


@torch.inference_mode()
def write(model: Model, picture: Tensor) -> None:
    """Choose the likeliest token again and again, and go on with one that is the same for all models."""
    network = model.writes.model
    stream = Stream(network, [model.writes.image_tokenizer.encode_batch([picture])], room=TOKENS + 2)
    for _ in range(TOKENS):
        network.logits(stream.hidden).argmax(-1)
        stream.append(torch.zeros(1, dtype=torch.long), modality="text")


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("teacher", nargs="?", default="openmoji")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {name: Model(getattr(args, name), {}) for name in ("student", "teacher")}
    found: dict = {}
    for name, model in models.items():
        found[name] = quality(Measurement(model, args.limit, 3))
    times = seconds(models, args.repeats)
    ratios = {what: each["student"] / each["teacher"] for what, each in times.items()}
    return {**found, "seconds": times, "ratio": ratios}


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
