"""VectorPipeline: numbers after a prompt, such as the actions that it asks for, perhaps with a picture foreseen first.

The order is F1's (arXiv 2509.06951): read a picture and an instruction, foresee a picture, act.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from mot_gen.errors import require
from mot_gen.pipelines.base import repeat_each
from mot_gen.pipelines.engine import Drawing, Grid, Guidance, Stream, draw
from mot_gen.pipelines.engine.samplers import row_generators
from mot_gen.pipelines.engine.whole_spans import WholeSpans
from mot_gen.pipelines.image_drawing import ImageDrawingPipeline
from mot_gen.pipelines.options import StepOptions, takes
from mot_gen.pipelines.pictures import as_list
from mot_gen.pipelines.settings import is_count
from mot_gen.sequence import Span


@dataclass
class VectorOutput(BaseOutput):
    """What VectorPipeline returns.

    vectors: (n, d) numbers a sample. images: the pictures that were foreseen, None where none was.
    """

    vectors: list[Tensor]
    images: list | None = None


class VectorPipeline(ImageDrawingPipeline):
    """Reads prompts, each perhaps after a picture, and generates numbers by diffusion or flow.

    pipe = VectorPipeline.from_pretrained("runs/reach")
    pipe("reach the red disc", image=scene, foresee=True).vectors
    """

    @torch.inference_mode()
    @takes(options=StepOptions)
    def __call__(
        self,
        prompt: str | Sequence[str],
        image=None,
        length: int | None = None,
        foresee: bool = False,
        num_vectors_per_prompt: int = 1,
        *,
        options: StepOptions,
    ) -> VectorOutput | tuple:
        """Generate numbers for each prompt in turn, `num_vectors_per_prompt` times.

        prompt: a text, or a list of texts.
        image: one picture or as many as there are prompts, read before them.
        length: how many tokens of numbers, if the tokenizer leaves it open.
        foresee: whether a picture is drawn after the prompt and before the numbers. It is returned as well.
        guidance_scale: not used; guidance acts on neither.

        Raises InputError, before any work, for what does not fit.
        """
        self._needs("vector", "vector_tokenizer")
        if foresee:
            self._needs("image", "image_tokenizer")
        length = self._length(length)
        prompts = repeat_each(self._documents(prompt, image), num_vectors_per_prompt)
        grid = self._grid(None, None) if foresee else None
        room = _slots(length, grid)
        self._check_context(prompts, room)
        how = options.settled(self._own)
        self._check_steps(how.steps)
        generators = row_generators(options.generator, len(prompts))
        first = "image" if foresee else "vector"
        stream = Stream(self.model, prompts, room, [first] * len(prompts))
        images = None
        if grid is not None:
            images = self._decode_images(self._foreseen(stream, grid, generators), options.output_type)
            begin = self.model.vocabulary.begin["vector"]
            stream.append([begin] * stream.rows, modality=self.model.modality_names[0])
        vectors = self._numbers(stream, length, how.steps, generators)
        output = VectorOutput(vectors=vectors, images=images)
        return self._returned(output, options.return_dict, "vectors", "images")

    def _length(self, given: int | None) -> int:
        """How many tokens a span of vectors has: those of the checkpoint, else what the caller gave."""
        own = self.vector_tokenizer.config.length
        if given is None:
            require(own is not None, "length: this checkpoint's vectors may have any; say how many tokens to generate")
            return own
        require(own in (None, given), f"length: this checkpoint's vectors have {own} tokens, got {given}")
        require(is_count(given), f"length must be a positive integer, got {given!r}")
        return given

    def _documents(self, prompt, image) -> list[list[Span]]:
        """A picture, if any, and the text of each prompt."""
        texts = self._text(prompt)
        if image is None:
            return texts
        images = as_list(image)
        require(len(images) in (1, len(texts)), f"image: {len(images)} pictures were given for {len(texts)} prompts")
        self._needs("image", "image_tokenizer")
        seen = self.seen(images, drawn=False)
        return [[*spans, *text] for spans, text in zip(seen * (len(texts) // len(seen)), texts)]

    def _foreseen(self, stream: Stream, grid: Grid, generators) -> list[Span]:
        """One picture in each row, which the cache keeps; the most likely tokens where it is discrete."""
        by_token = self.model.modality["image"].one_by_one
        require(not by_token, "foresee: this checkpoint's pictures are drawn token by token, which takes too long here")
        steps = self._own.get("num_inference_steps", 20)
        drawing = Drawing(self._scheduler_of("image"), steps, Guidance(), generators, stopped=self._stopped)
        spans = WholeSpans(stream, stream.rows, self._sampling(StepOptions(), grid[0] * grid[1]))
        values, _ = spans.draw("image", grid, range(stream.rows), drawing, process=None)
        return [Span("image", each, grid) for each in values]

    def _check_steps(self, steps: int) -> None:
        fewest = getattr(self.model.objectives["vector"], "fewest", 1)
        require(steps >= fewest, f"num_inference_steps: this checkpoint was trained for at least {fewest}, got {steps}")

    def _numbers(self, stream: Stream, length: int, steps: int, generators) -> list[Tensor]:
        span = stream.open("vector", [(1, length)] * stream.rows, [True] * stream.rows)
        drawing = Drawing(self._scheduler_of("vector"), steps, Guidance(), generators, stopped=self._stopped)
        values = draw(span, drawing).float()
        return [each.cpu() for each in self.vector_tokenizer.decode_batch([Span("vector", each) for each in values])]

    def _scheduler_of(self, modality: str):
        """The pipeline's own scheduler where it fits the modality, else the objective's."""
        objective = self.model.objectives[modality]
        if not hasattr(objective, "fits"):
            return None
        given = self.scheduler
        if given is not None and objective.fits(given) is None:
            return given
        return objective.scheduler()


def _slots(length: int, grid: Grid | None) -> int:
    """The slots of so many tokens of numbers, and of a picture before them where one is foreseen; with their bounds."""
    if grid is None:
        return length + 2
    rows, columns = grid
    return length + 2 + rows * columns + 2
