"""Whether an OpenMoji model answers in the language that is asked for: `python -m benchmarks.openmoji_languages`.

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

import torch

from benchmarks.openmoji import Model, in_batches, share
from mot_gen.datasets.openmoji import GROUNDS, LANGUAGES, PLACES, Scene, Scenes, catalogue, read_caption

SIZE = 32


def phrasing(language: str) -> str:
    """In which a language is learned; English without articles."""
    return "plain" if language == "en" else language


def captions(language: str) -> list[str]:
    """All that may be said in a language."""
    sizes = [(False, None), *((True, place) for place in PLACES)]
    scenes = product(catalogue(), sizes, GROUNDS, (False, True))
    said = {
        Scene(id, small, place, ground, turned).caption(phrasing(language))
        for id, (small, place), ground, turned in scenes
    }
    return sorted(said)


def measured(model: Model, scenes: list[Scene], language: str | None) -> dict:
    """Shares of right answers; language None: free in their language."""
    choices = None if language is None else captions(language)
    pictures = [scene.picture(SIZE) for scene in scenes]
    texts = in_batches(lambda part: model.writes(part, max_new_tokens=32, choices=choices).texts, pictures)
    pairs = list(zip(texts, scenes))
    named = torch.tensor([read_caption(text).emoji == scene.emoji for text, scene in pairs])
    found = {"choices": len(choices or ()), "name": share(named)}
    if language is None:
        return found | {"languages": Counter(language_of(text, scene) for text, scene in pairs)}
    return found | {"all": share(torch.tensor([text == scene.caption(phrasing(language)) for text, scene in pairs]))}


def language_of(text: str, scene: Scene) -> str:
    """The language in which a right caption names its scene; of several alike, the first."""
    return next((code for code in LANGUAGES if scene.about.names[code] in text), "wrong")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default="openmoji")
    parser.add_argument("--limit", type=int, default=128, help="pictures")
    parser.add_argument("--language", action="append", help="one of them; may be given many times")
    options = parser.parse_args()
    model = Model(options.checkpoint, {})
    scenes = Scenes("combinations", SIZE, 1).scenes
    scenes = scenes[:: max(1, len(scenes) // options.limit)][: options.limit]
    for language in options.language or (None, *LANGUAGES):
        print(json.dumps({"language": language or "free", **measured(model, scenes, language)}), flush=True)


if __name__ == "__main__":
    main()
