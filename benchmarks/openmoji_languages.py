"""Whether an OpenMoji model answers in the language that is asked for: `python -m benchmarks.openmoji_languages`.
`--write FILE` writes instead what may be said in each language, as a checkpoint's `model/answers.json`; `mot-gen train`
and `mot-gen export` write it too. `--source emoji_scenes`: of the model at 64 pixels, which is measured by
`benchmarks.openmoji_scenes`.

Pictures are scenes whose ground, place or skin tone was never shown with their emoji. For each language the model picks
its answer (`choices`) from all captions of that language: every name, at every size, place and ground, mirrored or not.
Right is the name, word for word with its skin tone; and all of the caption. Beside it stand answers that are free in
their language.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import product
from pathlib import Path

import torch

from benchmarks.openmoji import Model, in_batches, share
from mot_gen.datasets.openmoji import LANGUAGES, Scene, Scenes, answers, read_caption
from mot_gen.datasets.scene_words import plain
from mot_gen.pipelines.captions.languages import write
from mot_gen.recipes.implementations import locate

SIZE = 32


def captions(language: str) -> list[str]:
    """All that may be said in a language."""
    said = answers()[language]
    return sorted({phrase.replace("{}", name) for phrase, name in product(said["phrases"], said["names"])})


def measured(model: Model, scenes: list[Scene], language: str | None) -> dict:
    """Shares of right answers; language None: free in their language."""
    choices = None if language is None else captions(language)
    pictures = [scene.picture(SIZE) for scene in scenes]
    asked = {"language": "any"} if choices is None else {"choices": choices}
    texts = in_batches(lambda part: model.writes(part, max_new_tokens=32, **asked).texts, pictures)
    pairs = list(zip(texts, scenes))
    named = torch.tensor([read_caption(text).emoji == scene.emoji for text, scene in pairs])
    found = {"choices": len(choices or ()), "name": share(named)}
    if language is None:
        return found | {"languages": Counter(language_of(text, scene) for text, scene in pairs)}
    return found | {"all": share(torch.tensor([text == scene.caption(plain(language)) for text, scene in pairs]))}


def language_of(text: str, scene: Scene) -> str:
    """The language in which a right caption names its scene; of several alike, the first."""
    return next((code for code in LANGUAGES if scene.about.names[code] in text), "wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="openmoji")
    parser.add_argument("--limit", type=int, default=128, help="pictures")
    parser.add_argument("--language", action="append", help="one of them; may be given many times")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write what may be said, and measure nothing")
    parser.add_argument("--source", default="openmoji", choices=("openmoji", "emoji_scenes"), help="of --write")
    options = parser.parse_args()
    if options.write:
        write(locate("mot_gen.datasets", options.source).answers(), options.write)
        return
    model = Model(options.checkpoint, {})
    scenes = Scenes("combinations", SIZE, 1).scenes
    scenes = scenes[:: max(1, len(scenes) // options.limit)][: options.limit]
    for language in options.language or (None, *LANGUAGES):
        print(json.dumps({"language": language or "free", **measured(model, scenes, language)}), flush=True)


if __name__ == "__main__":
    main()
