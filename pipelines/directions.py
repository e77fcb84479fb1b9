"""What a checkpoint can be asked for: Direction, DIRECTIONS, directions_of, choose, OPTIONS.

A direction is data: which pipeline, which inputs it must and may be given, which of its options the command offers, and
where the result is in what it returns. A new one is a new entry; nothing here imports torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mot_gen.errors import InputError

INPUTS = ("prompt", "image", "mask", "audio")
# The modality that a checkpoint must have for an input or a result.
MODALITY = {
    "image": "image",
    "mask": "image",
    "audio": "speech",
    "speech": "speech",
    "any": "image",
    "vector": "vector",
}
# What the pipelines take beside their inputs, by the names of the field, and its type.
OPTIONS: dict[str, type] = {
    "negative_prompt": str,
    "height": int,
    "width": int,
    "num_inference_steps": int,
    "guidance_scale": float,
    "image_guidance_scale": float,
    "strength": float,
    "max_new_tokens": int,
    "language": str,
    "temperature": float,
    "top_p": float,
}
_SIZE = ("height", "width")
_DRAWING = ("num_inference_steps", "guidance_scale")
_WRITING = ("max_new_tokens", "temperature", "top_p")


def _in_lists(inputs: Sequence[Mapping[str, str]]) -> dict[str, list]:
    """Inputs of a batch -> arguments of a pipeline: a list of each."""
    arguments: dict[str, list] = {}
    for name in inputs[0]:
        argument = "mask_image" if name == "mask" else name
        arguments[argument] = [each[name] for each in inputs]
    return arguments


def _as_document(inputs: Sequence[Mapping[str, str]]) -> dict[str, list]:
    """Inputs of one document -> its beginning: the text, then the picture."""
    (given,) = inputs
    parts = {"prompt": given.get("prompt"), "image": given.get("image") and Path(given["image"])}
    return {"prompt": [part for part in parts.values() if part is not None]}


def _greedy_or_sampled(options: Mapping) -> dict:
    """transformers' manner: a temperature above 0 samples, and 0 or none at all is greedy."""
    kept = dict(options)
    sampled = bool(kept.get("temperature"))
    if not sampled:
        kept.pop("temperature", None)
    return {**kept, "do_sample": sampled}


@dataclass(frozen=True)
class Direction:
    """From some inputs to one kind of result.

    to: "image", "text", "speech", "vector" (numbers) or "any" (texts and pictures).
    pipeline: its dotted name.
    needs, takes: inputs that must, and may, be given.
    options: of `OPTIONS`.
    defaults: those options for which a checkpoint has its own.
    result: the list in the pipeline's output.
    gather, prepare: inputs of a batch, and options, as the pipeline's arguments.
    batched: whether it takes many items at once.
    """

    to: str
    pipeline: str
    needs: tuple[str, ...]
    takes: tuple[str, ...]
    options: tuple[str, ...]
    result: str
    defaults: tuple[str, ...] = (*_DRAWING, "max_new_tokens")
    gather: Callable[[Sequence[Mapping]], dict] = _in_lists
    prepare: Callable[[Mapping], dict] = dict
    batched: bool = True

    @property
    def name(self) -> str:
        """Such as "image -> text"."""
        return f"{' + '.join(self.needs) or 'nothing'} -> {self.to}"

    @property
    def modalities(self) -> set[str]:
        """What a checkpoint must have, beside text."""
        return {MODALITY[name] for name in (*self.needs, self.to) if name in MODALITY}

    def accepts(self, given: Collection[str]) -> bool:
        """Whether these inputs are all that it needs, and no others."""
        return set(self.needs) <= set(given) and self.allows(given)

    def allows(self, given: Collection[str]) -> bool:
        """Whether there is a place for all of these inputs."""
        return set(given) <= {*self.needs, *self.takes}

    def pipeline_class(self) -> type:
        """Imports it, and torch with it."""
        module, name = self.pipeline.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


_HOME = "mot_gen.pipelines"
DIRECTIONS = (
    Direction(
        "image",
        f"{_HOME}.text_to_image.TextToImagePipeline",
        needs=("prompt",),
        takes=(),
        options=("negative_prompt", *_SIZE, *_DRAWING),
        result="images",
    ),
    Direction(
        "image",
        f"{_HOME}.image_to_image.ImageToImagePipeline",
        needs=("image",),
        takes=("prompt", "mask"),
        options=("negative_prompt", *_DRAWING, "image_guidance_scale", "strength"),
        result="images",
    ),
    Direction(
        "text",
        f"{_HOME}.image_to_text.ImageToTextPipeline",
        needs=("image",),
        takes=("prompt",),
        options=(*_WRITING, "language"),
        result="texts",
        prepare=_greedy_or_sampled,
    ),
    Direction(
        "text",
        f"{_HOME}.speech_to_text.SpeechToTextPipeline",
        needs=("audio",),
        takes=("prompt",),
        options=_WRITING,
        result="texts",
        prepare=_greedy_or_sampled,
    ),
    Direction(
        "text",
        f"{_HOME}.text_generation.TextGenerationPipeline",
        needs=("prompt",),
        takes=(),
        options=_WRITING,
        result="texts",
        prepare=_greedy_or_sampled,
    ),
    Direction(
        "speech",
        f"{_HOME}.text_to_speech.TextToSpeechPipeline",
        needs=("prompt",),
        takes=(),
        options=("negative_prompt", "guidance_scale", *_WRITING),
        result="audios",
        defaults=(),
    ),
    Direction(
        "vector",
        f"{_HOME}.vectors.VectorPipeline",
        needs=("prompt",),
        takes=("image",),
        options=("num_inference_steps",),
        result="vectors",
    ),
    Direction(
        "any",
        f"{_HOME}.interleaved.InterleavedPipeline",
        needs=(),
        takes=("prompt", "image"),
        options=(*_SIZE, *_DRAWING, *_WRITING),
        result="documents",
        gather=_as_document,
        prepare=_greedy_or_sampled,
        batched=False,
    ),
)
KINDS = tuple(dict.fromkeys(direction.to for direction in DIRECTIONS))


def directions_of(modalities: Collection[str], draws: bool = True) -> tuple[Direction, ...]:
    """The directions of a checkpoint with text and these modalities. draws: whether its pictures are made, and not read
    alone."""
    has = set(modalities)
    makes = set(KINDS) if draws else set(KINDS) - {"image", "any"}
    return tuple(direction for direction in DIRECTIONS if direction.modalities <= has and direction.to in makes)


def choose(to: str, given: Collection[str], options: Collection[str] = ()) -> Direction:
    """The direction to `to` that these inputs ask for; InputError for inputs or options that none there takes."""
    offered = [direction for direction in DIRECTIONS if direction.to == to]
    direction = next((each for each in offered if each.accepts(given)), None)
    if direction is None:
        ways = [" and ".join(map(flag, each.needs)) for each in offered]
        got = " and ".join(map(flag, given)) or "nothing"
        close = [set(each.needs) - set(given) for each in offered if given and each.allows(given)]
        if close:
            raise InputError(f"--to {to} from {got} needs {' and '.join(map(flag, sorted(close[0])))} too")
        raise InputError(f"--to {to} needs {' or '.join(ways)}, got {got}")
    for name in options:
        if name not in direction.options:
            raise InputError(
                f"{flag(name)} does not act on {direction.name}, which takes {', '.join(map(flag, direction.options))}"
            )
    return direction


def flag(name: str) -> str:
    """num_inference_steps -> --num-inference-steps."""
    return "--" + name.replace("_", "-")
