"""Reach: a hand that is to move to a named thing in a 2-D scene, in F1's arrangement (arXiv 2509.06951).

A sample is a document: the scene as it is read, an instruction, in half of the samples the scene as it will be, and the
moves that lead there. `load` gives the splits of a recipe; `draw_scene`, `render`, `moves_to` are what it is made of;
`follow` is the simulator, and `measure` a model's success rate in it. All is computed here, nothing is downloaded.

Places are (x, y) in [0, 1], x to the right and y down. data.options: see `ReachTask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mot_gen.data.records import Document, Part, Splits
from mot_gen.errors import InputError, require
from mot_gen.recipes.implementations import check_options
from mot_gen.recipes.sections import Data

if TYPE_CHECKING:
    from mot_gen.pipelines.vectors import VectorPipeline

COLOURS = {"red": (230, 40, 40), "green": (40, 200, 60), "blue": (50, 80, 240), "yellow": (235, 215, 40)}
SHAPES = ("disc", "square", "triangle")
PHRASINGS = ("reach the {name}", "go to the {name}", "move to the {name}")
SIDE = 16  # pixels
RADIUS = 0.125  # of a thing: two pixels. Within it of its centre the hand has reached it.
HAND = 0.07
MOVES = 4
LONGEST = 0.3  # of one move; the simulator shortens longer ones


@dataclass(frozen=True)
class ReachTask:
    """Scenes, instructions and the actions that reach what they name.

    count: samples.
    objects: things in a scene, each of another colour.
    foreseen: the share of samples with the scene as it will be.
    seed: of all that is drawn.
    """

    count: int = 3000
    objects: int = 3
    foreseen: float = 0.5
    seed: int = 0

    def __post_init__(self):
        if self.count < 1 or not 2 <= self.objects <= len(COLOURS):
            raise InputError(
                f"data.options: reach needs count >= 1 and 2 to {len(COLOURS)} objects, got {self.count} and "
                f"{self.objects}"
            )
        require(0 <= self.foreseen <= 1, f"data.options.foreseen must lie in 0 to 1, got {self.foreseen}")


@dataclass(frozen=True)
class SceneObject:
    """One thing of a scene."""

    colour: str
    shape: str
    place: tuple[float, float]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """things, and the place of the hand. target: which thing is asked for."""

    things: tuple[SceneObject, ...]
    hand: tuple[float, float]
    target: int

    @property
    def goal(self) -> tuple[float, float]:
        return self.things[self.target].place


def draw_scene(rng: np.random.Generator, objects: int) -> Scene:
    """A scene by chance: things of different colours that do not touch one another, and a hand on none of them."""
    places: list[np.ndarray] = []
    while len(places) <= objects:
        place = rng.uniform(RADIUS, 1 - RADIUS, 2)
        if all(np.linalg.norm(place - other) > 2 * RADIUS + 0.02 for other in places):
            places.append(place)
    colours = rng.permutation(list(COLOURS))[:objects]
    shapes = rng.choice(SHAPES, objects)
    things = tuple(SceneObject(str(c), str(s), _pair(place)) for c, s, place in zip(colours, shapes, places))
    return Scene(things, _pair(places[objects]), int(rng.integers(objects)))


def _pair(place: np.ndarray) -> tuple[float, float]:
    return float(place[0]), float(place[1])


def render(scene: Scene) -> Image.Image:
    """(SIDE, SIDE) RGB, each pixel the mean of 16 samples; the hand is white and above all things."""
    fine = 4 * SIDE
    centres = (np.arange(fine) + 0.5) / fine
    x, y = np.meshgrid(centres, centres)
    pixels = np.zeros((fine, fine, 3))
    for thing in scene.things:
        pixels[_covered(thing, x, y)] = COLOURS[thing.colour]
    pixels[np.hypot(x - scene.hand[0], y - scene.hand[1]) < HAND] = 255
    mean = pixels.reshape(SIDE, 4, SIDE, 4, 3).mean((1, 3))
    return Image.fromarray(np.round(mean).astype(np.uint8))


def _covered(thing: SceneObject, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx, dy = x - thing.place[0], y - thing.place[1]
    if thing.shape == "disc":
        return np.hypot(dx, dy) < RADIUS
    if thing.shape == "square":
        return np.maximum(np.abs(dx), np.abs(dy)) < 0.9 * RADIUS
    return (dy < 0.8 * RADIUS) & (dy > 2 * np.abs(dx) - 1.1 * RADIUS)


def moves_to(scene: Scene) -> np.ndarray:
    """(MOVES, 2) the moves that lead straight to the target, all alike."""
    way = np.subtract(scene.goal, scene.hand) / MOVES
    return np.tile(way, (MOVES, 1)).astype(np.float32)


def follow(hand: Sequence[float], moves: np.ndarray) -> tuple[float, float]:
    """Where moves (n, 2) lead the hand: one after the other, each at most LONGEST long, never out of the scene."""
    place = np.asarray(hand, dtype=float)
    for move in np.asarray(moves, dtype=float):
        length = float(np.linalg.norm(move))
        place = np.clip(place + move * min(1.0, LONGEST / max(length, 1e-9)), 0, 1)
    return _pair(place)


def reached(scene: Scene, moves: np.ndarray) -> bool:
    """Whether moves lead the hand within RADIUS of the target."""
    return bool(np.hypot(*np.subtract(follow(scene.hand, moves), scene.goal)) <= RADIUS)


def instruction(scene: Scene, rng: np.random.Generator) -> str:
    """What is asked for, in one of the phrasings."""
    return str(rng.choice(PHRASINGS)).format(name=scene.things[scene.target].name)


def load(data: Data) -> Splits:
    """`count` samples, of which `data.held_out` are set aside; no scene comes twice."""
    check_options("data.options", ReachTask, data.options)
    options = ReachTask(**data.options)
    rng = np.random.default_rng([options.seed, data.split_seed])
    documents = [_document(number, options, rng) for number in range(options.count)]
    held_out = round(options.count * data.held_out)
    return Splits(documents[held_out:], documents[:held_out])


def _document(number: int, options: ReachTask, rng: np.random.Generator) -> Document:
    scene = draw_scene(rng, options.objects)
    parts = [Part("sight", render(scene), loss=False), Part("text", instruction(scene, rng))]
    if rng.random() < options.foreseen:
        parts.append(Part("image", render(replace(scene, hand=scene.goal))))
    return Document(f"reach/{number}", (*parts, Part("vector", moves_to(scene))))


# ---------------------------------------------------------------- how well a model does


def measure(pipe: VectorPipeline, data: Data, count: int, batch: int = 100) -> dict[str, Any]:
    """Success in the simulator, in `count` new scenes, with the picture foreseen and without.

    any_thing: the success of moving to a thing that is drawn by lot.
    success: of the model's moves. chance: of the same moves, where each scene is given those of the next one.
    error: the mean squared error to the straight way, in squared units of the scene.
    """
    import torch

    from mot_gen.eval.vectors import VectorErrors

    options = ReachTask(**data.options)
    rng = np.random.default_rng([options.seed, data.split_seed, 1])
    scenes = [draw_scene(rng, options.objects) for _ in range(count)]
    asked = [instruction(scene, rng) for scene in scenes]
    seen = [render(scene) for scene in scenes]
    found: dict[str, Any] = {"n": count, "any_thing": 1 / options.objects}
    for name, foresee in (("foreseeing", True), ("without", False)):
        moves: list[Any] = []
        for start in range(0, count, batch):
            some = slice(start, start + batch)
            generators = [torch.Generator().manual_seed(n) for n in range(start, min(start + batch, count))]
            moves += pipe(asked[some], image=seen[some], foresee=foresee, generator=generators).vectors
        errors = VectorErrors()
        errors.update(moves, [torch.from_numpy(moves_to(scene)) for scene in scenes])
        ways = [each.numpy() for each in moves]
        of_the_next = [*ways[1:], *ways[:1]]
        found[name] = {
            "success": _share_reached(scenes, ways),
            "chance": _share_reached(scenes, of_the_next),
            "error": errors.compute().value,
        }
    return found


def _share_reached(scenes: Sequence[Scene], ways: Sequence[np.ndarray]) -> float:
    """The share of scenes whose moves lead to the target."""
    return float(np.mean([reached(scene, way) for scene, way in zip(scenes, ways)]))
