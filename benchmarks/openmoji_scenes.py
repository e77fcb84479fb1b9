"""What a model of `emoji_scenes` reaches: `python -m benchmarks.openmoji_scenes CHECKPOINT` prints JSON.

CHECKPOINT: a run's folder, or one that `mot-gen export` wrote, also of a run that has not ended. All pictures by the
checkpoint's own defaults of sampling, a seed each, none chosen. The judge is benchmarks/pair_judge.py, trained on
renderings alone; it is not told what was asked for. Its own accuracy on renderings of the same scenes, and on what the
tokenizer makes of them, stand beside the model's.

names       every name that training shows, asked for alone ("red apple"): the name is right
singles     one emoji on a ground or in a place that was never shown with it: the emoji, the place and the ground are
            right; large and small ones apart
pairs       two emoji that were never shown together: both are there, on whichever side; of those where both are, the
            sides are right; and all is right
captions    what is written of renderings of the singles and pairs, in each language in turn: the names are right, the
            whole caption is, and it is in the language that was asked for. "A left of B" is as right as "B right of A"
phrasings   scenes like those of training, in wordings that were learned and in wordings that never were: the name
practice    the emoji, in scenes that training showed and in others like them, each kind apart; in all phrasings
reading     the same of the names that it reads in renderings of them, in English
languages   the emoji in scenes that training showed, asked for in each language, each kind apart
frechet     distance to the renderings of the singles and pairs: of what is drawn, and of these after the tokenizer

Names whose pictures are the very same count as one. Shares have 95% intervals by Wilson's score. Under "targets" stands
what is aimed at, what was reached, and whether that is enough.
--limit N: so many scenes of each kind, evenly taken. --only NAME ...: some of these.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from benchmarks.openmoji import BATCH, Model, in_batches, share
from benchmarks.pair_judge import PairJudge, Reading
from benchmarks.scene_judge import pictures_of
from mot_gen.datasets.emoji_captions import languages_of, read_caption
from mot_gen.datasets.emoji_scenes import KINDS, Scene, Scenes, catalogue, part_of
from mot_gen.datasets.emoji_words import HELD_OUT_PHRASINGS, PHRASINGS
from mot_gen.datasets.scene_words import LANGUAGES, plain
from mot_gen.eval.images.extractors import load_extractor
from mot_gen.eval.images.frechet import FrechetDistance
from mot_gen.files.image_files import to_pil
from mot_gen.recipes.recipe import load_recipe

SIZE = 64
ENGLISH = ("plain", "article", "ground first")  # the phrasings of PHRASINGS that are English
Right = Callable[[Reading, Reading], bool]  # (what is seen, what was asked for)

# What of a picture is right.
SEEN: dict[str, Right] = {
    "emoji": lambda seen, asked: seen.emoji == asked.emoji,
    "place": lambda seen, asked: seen.layout == asked.layout,
    "ground": lambda seen, asked: seen.ground == asked.ground,
    "all": lambda seen, asked: seen == asked,
}


def taken(scenes: Sequence[Scene], limit: int | None) -> list[Scene]:
    """So many scenes, evenly."""
    step = 1 if limit is None else max(1, len(scenes) // limit)
    return list(scenes[::step][:limit])


def kind_of(scene: Scene) -> str:
    """Which of KINDS a scene is; a mirrored one on white counts as one on a ground."""
    if scene.relation:
        return "two"
    if scene.place:
        return "small"
    if scene.mirrored or scene.ground != "white":
        return "ground"
    return "plain"


def share_of(right: Sequence[bool]) -> dict[str, float]:
    """As `share`; a share of nothing has no value."""
    return share(torch.tensor(right)) if right else {"n": 0}


# Kinds of the scenes that phrasings are measured on, whatever training shows: figures of checkpoints stay comparable.
FAMILIAR = {"plain": 0.35, "ground": 0.2, "small": 0.2, "two": 0.25}
CAPTIONED = ("language", "names", "whole")  # what of a caption is right


class Measurement:
    """All figures of a checkpoint; each set of pictures is drawn once."""

    def __init__(self, model: Model, judge: PairJudge, limit: int | None):
        self.model, self.judge, self.limit = model, judge, limit
        alone = [Scene((id,)) for id in catalogue()]
        self.names = taken([scene for scene in alone if part_of(scene) == "train"], limit)
        self.singles = taken(Scenes("combinations", SIZE, 1, kinds={"ground": 0.5, "small": 0.5}).scenes, limit)
        self.pairs = taken(Scenes("pairs", SIZE, 1, kinds={"two": 1.0}).scenes, limit)
        self.familiar = taken(Scenes("train", SIZE, 1, seed=1, kinds=FAMILIAR).scenes, limit)

    def drawn(self, scenes: Sequence[Scene]) -> Tensor:
        """A picture of each, in all phrasings that training knows, in turn."""
        return self.model.draw([scene.caption(PHRASINGS[i % len(PHRASINGS)]) for i, scene in enumerate(scenes)])

    @cached_property
    def drawn_singles(self) -> Tensor:
        return self.drawn(self.singles)

    @cached_property
    def drawn_pairs(self) -> Tensor:
        return self.drawn(self.pairs)

    def beside(self, scenes: Sequence[Scene], drawn: Tensor, measure: Callable[[list[Reading]], dict]) -> dict:
        """A measure of what is seen in drawn pictures, in renderings, and in renderings after the tokenizer."""
        real = pictures_of(scenes, SIZE)
        of = {"generated": drawn, "renderings": real, "tokenizer": self.model.round_trip(real)}
        return {name: measure(self.judge.read(pictures)) for name, pictures in of.items()}

    def named(self) -> dict:
        drawn = self.model.draw([scene.caption("plain") for scene in self.names])
        return self.beside(self.names, drawn, lambda seen: {"emoji": _shares(seen, self.names)["emoji"]})

    def unseen_singles(self) -> dict:
        def measure(seen: list[Reading]) -> dict:
            small = [scene.place is not None for scene in self.singles]
            parts = {"large": [not each for each in small], "small": small}
            apart = {
                name: _shares(_where(seen, chosen), _where(self.singles, chosen)) for name, chosen in parts.items()
            }
            return {**_shares(seen, self.singles), **apart}

        return self.beside(self.singles, self.drawn_singles, measure)

    def unseen_pairs(self) -> dict:
        asked = [Reading.of(scene) for scene in self.pairs]

        def measure(seen: list[Reading]) -> dict:
            both = [sorted(found.emoji) == sorted(wanted.emoji) for found, wanted in zip(seen, asked)]
            sides = [(a.layout, a.emoji) == (b.layout, b.emoji) for a, b in zip(seen, asked)]
            return {"both": share_of(both), "sides": share_of(_where(sides, both)), **_shares(seen, self.pairs)}

        return self.beside(self.pairs, self.drawn_pairs, measure)

    def phrasings(self) -> dict:
        """The name, of the same scenes in the English that was learned and in that which never was."""
        found = {}
        for kind, wordings in {"learned": ENGLISH, "unlearned": HELD_OUT_PHRASINGS}.items():
            said = [scene.caption(wordings[i % len(wordings)]) for i, scene in enumerate(self.familiar)]
            found[kind] = _shares(self.judge.read(self.model.draw(said)), self.familiar)
        return found

    def practice(self) -> dict:
        """Whether it draws what it was shown better than what it was not."""
        return self.of_practised(self._named_right)

    def reading(self) -> dict:
        """As `practice`, of the names that it reads in renderings, in English."""
        return self.of_practised(lambda scenes: share_of(self._captioned(scenes, "en")["names"]))

    def of_practised(self, measure: Callable[[Sequence[Scene]], dict]) -> dict:
        """A measure of scenes that training showed and of others like them, by kind."""
        known = set(self.shown)
        others = [scene for scene in Scenes("train", SIZE, 10, seed=777).scenes if scene not in known]
        found = {}
        for kind in KINDS:
            if kind != "plain":  # a name alone on white is one scene, which is shown
                sets = {"shown": self.of_kind(kind, self.shown), "others": self.of_kind(kind, others)}
                found[kind] = {name: measure(scenes) for name, scenes in sets.items()}
        return found

    def languages(self) -> dict:
        phrasings = [plain(code) for code in LANGUAGES]
        return {kind: {each: self._said_right(kind, each) for each in phrasings} for kind in KINDS}

    @cached_property
    def shown(self) -> list[Scene]:
        """What the recipe trains on."""
        options = load_recipe("openmoji-64").data.options
        return Scenes("train", SIZE, options["each"]).scenes

    def of_kind(self, kind: str, scenes: Sequence[Scene]) -> list[Scene]:
        return taken([scene for scene in scenes if kind_of(scene) == kind], self.limit)

    def _named_right(self, scenes: Sequence[Scene]) -> dict:
        return _shares(self.judge.read(self.drawn(scenes)), scenes)["emoji"]

    def _said_right(self, kind: str, phrasing: str) -> dict:
        scenes = self.of_kind(kind, self.shown)
        drawn = self.model.draw([scene.caption(phrasing) for scene in scenes])
        return _shares(self.judge.read(drawn), scenes)["emoji"]

    def captions(self) -> dict:
        """By language and of all: a picture is asked about in one language."""
        scenes, codes = [*self.singles, *self.pairs], list(LANGUAGES)
        by_language = {code: self._captioned(scenes[number :: len(codes)], code) for number, code in enumerate(codes)}
        lists = {name: [each for found in by_language.values() for each in found[name]] for name in CAPTIONED}
        return {name: share_of(right) for name, right in lists.items()} | {
            code: {name: share_of(right) for name, right in found.items()} for code, found in by_language.items()
        }

    def _captioned(self, scenes: Sequence[Scene], code: str) -> dict[str, list[bool]]:
        """For each scene, whether its caption is in the language, has the names right, and is right as a whole."""
        pictures = [to_pil(picture / 255) for picture in pictures_of(scenes, SIZE)]
        texts = in_batches(lambda part: self.model.writes(part, language=code).texts, pictures)
        read = [read_caption(text, code) for text in texts]
        return {
            "language": [code in languages_of(text) for text in texts],
            "names": list(map(_names_its_emoji, read, scenes)),
            "whole": list(map(_says_all, read, scenes)),
        }

    def frechet(self) -> dict:
        extractor, real = load_extractor("efficientnet-lite0"), pictures_of([*self.singles, *self.pairs], SIZE)
        of = {"generated": torch.cat([self.drawn_singles, self.drawn_pairs]), "tokenizer": self.model.round_trip(real)}
        found: dict[str, Any] = {}
        for name, pictures in of.items():
            metric = FrechetDistance(extractor, confidence=0.95)
            for is_real, images in ((True, real), (False, pictures)):
                for part in images.split(BATCH):
                    metric.update(part, real=is_real)
            result = metric.compute()
            found[name] = {"value": result.value, "interval": result.interval, "n": len(pictures)}
            found["signature"] = result.signature
        return found

    def figures(self) -> dict[str, Callable[[], dict]]:
        """By the names in this module's first lines."""
        return {
            "names": self.named,
            "singles": self.unseen_singles,
            "pairs": self.unseen_pairs,
            "captions": self.captions,
            "phrasings": self.phrasings,
            "practice": self.practice,
            "reading": self.reading,
            "languages": self.languages,
            "frechet": self.frechet,
        }


def _where(items: Sequence, chosen: Sequence[bool]) -> list:
    return [item for item, is_chosen in zip(items, chosen) if is_chosen]


def _names_its_emoji(said: Scene | None, scene: Scene) -> bool:
    """Whether what a caption says has the emoji of the scene, from left to right or from top to bottom: "A left of B"
    and "B right of A" are one picture."""
    return said is not None and Reading.of(said).emoji == Reading.of(scene).emoji


def _says_all(said: Scene | None, scene: Scene) -> bool:
    """Whether what a caption says is drawn as the scene is."""
    return said is not None and Reading.of(said) == Reading.of(scene) and said.mirrored == scene.mirrored


def _shares(seen: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, dict]:
    """Of each of SEEN, how often it is as the scenes say."""
    pairs = [(found, Reading.of(scene)) for found, scene in zip(seen, scenes)]
    return {name: share_of([right(*pair) for pair in pairs]) for name, right in SEEN.items()}


# ---------------------------------------------------------------- what is aimed at


@dataclass(frozen=True)
class Aim:
    """bound: the least that is wanted, or the most. figure: where the value stands among the figures. over: where that
    stands which it is divided by."""

    what: str
    bound: float
    figure: str
    over: str | None = None
    is_most: bool = False

    def met(self, figures: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was reached and whether it is enough; None where it was not measured."""
        value = _value(figures, self.figure)
        base = 1.0 if self.over is None else _value(figures, self.over)
        if value is None or not base:
            return None
        reached = value / base
        enough = reached <= self.bound if self.is_most else reached >= self.bound
        return {"what": self.what, "aim": self.bound, "reached": round(reached, 4), "enough": enough}


JUDGED = "as a share of the judge's accuracy on renderings"
AIMS = (
    Aim("names drawn right", 0.97, "names.generated.emoji"),
    Aim(f"large singles, {JUDGED}", 0.95, "singles.generated.large.emoji", "singles.renderings.large.emoji"),
    Aim(f"small singles, {JUDGED}", 0.9, "singles.generated.small.emoji", "singles.renderings.small.emoji"),
    Aim("pairs: both right", 0.7, "pairs.generated.both"),
    Aim("pairs: their sides right", 0.9, "pairs.generated.sides"),
    Aim("captions: names right", 0.92, "captions.names"),
    Aim("captions in the language asked for", 1.0, "captions.language"),
    Aim("phrasings never learned over learned ones", 0.9, "phrasings.unlearned.emoji", "phrasings.learned.emoji"),
    Aim("Frechet distance over the tokenizer's", 1.5, "frechet.generated", "frechet.tokenizer", is_most=True),
)


def _value(figures: Mapping[str, Any], path: str) -> float | None:
    """The value at a path of names, such as "pairs.generated.both"."""
    found: Any = figures
    for name in path.split("."):
        found = found.get(name, {})
    return found.get("value")


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--limit", type=int, help="scenes of each kind; for a first look")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the figures")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--num-inference-steps", type=int)
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = {name: getattr(args, name) for name in ("guidance_scale", "num_inference_steps")}
    options = {name: value for name, value in options.items() if value is not None}
    found = Measurement(Model(args.checkpoint, options), PairJudge(SIZE), args.limit)
    wanted = args.only or list(found.figures())
    figures = {name: measure() for name, measure in found.figures().items() if name in wanted}
    met = [aim.met(figures) for aim in AIMS]
    return {"checkpoint": args.checkpoint, **options, **figures, "targets": [each for each in met if each]}


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
