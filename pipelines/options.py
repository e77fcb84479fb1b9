"""The arguments that pipelines share, under the names of the field: TextOptions, AnswerOptions, CaptionOptions,
StepOptions, ImageOptions; takes, which refuses arguments of other libraries and says what to give instead.

`settings.PictureSettings` has the steps and guidance of a picture; StepOptions and ImageOptions add to them.

The `__call__` of a pipeline names its own inputs and takes these by `@takes`. Users give all alike, as keyword
arguments, and `inspect.signature` and `help` show them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from mot_gen.errors import InputError, nearest, require
from mot_gen.pipelines.engine.decoding import TextSampling
from mot_gen.pipelines.settings import PictureSettings, check_given

OUTPUT_TYPES = ("pil", "pt", "np", "latent")
# Arguments of other pipelines and of `generate`, and what does the same here.
CALLS = {
    "batch_size": "give a list of prompts; all of them are made together",
    "cfg_scale": "guidance_scale",
    "eta": "set it in the scheduler, as in DDIMScheduler",
    "image_url": "download the picture and give the file as image",
    "input_image": "image",
    "input_ids": "give the text as prompt",
    "inputs": "prompt",
    "raw_speech": "audio",
    "mask": "mask_image",
    "max_length": "max_new_tokens, which does not count the prompt",
    "max_tokens": "max_new_tokens",
    "num_beams": "there is no beam search; do_sample=False is greedy",
    "num_generations": "num_images_per_prompt",
    "num_images": "num_images_per_prompt",
    "num_return_sequences": "give the prompt as many times in a list, with do_sample=True and a generator for each",
    "num_samples": "num_images_per_prompt",
    "num_steps": "num_inference_steps",
    "prompt_embeds": "give the text as prompt",
    "repetition_penalty": "logits_processor, with transformers' RepetitionPenaltyLogitsProcessor",
    "sampler": "set pipe.scheduler",
    "sampling_rate": "audio=(samples, rate)",
    "scheduler": "set pipe.scheduler",
    "seed": "generator=torch.Generator().manual_seed(N)",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "steps": "num_inference_steps",
    "text": "prompt",
    "text_inputs": "prompt",
    "texts": "prompt",
}


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How text is written:

    max_new_tokens: by default the checkpoint's, as far as the context has room.
    do_sample: False is greedy. It draws no random number, and temperature, top_k and top_p have no effect.
    temperature: scores are divided by it before a token is drawn.
    top_k, top_p: draw among the k likeliest tokens alone (0 = all), or among the likeliest of total probability p.
    generator: one, or a list with one for each document. No text and no picture depends on its batch.
    logits_processor: a LogitsProcessorList of transformers; `model.vocabulary.document_end` is its end of text.
    stop: a text or texts that end what is written, and are not part of it.
    streamer: a TextStreamer or TextIteratorStreamer of transformers over `text_tokenizer`, for one document.
    return_dict: False returns a tuple.
    """

    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    do_sample: bool = False
    generator: torch.Generator | list[torch.Generator] | None = None
    logits_processor: Sequence = ()
    stop: str | Sequence[str] | None = None
    streamer: Any = None
    return_dict: bool = True

    def __post_init__(self):
        check_given(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )

    def sampling(self, max_new_tokens: int) -> TextSampling:
        """The same settings as the engine takes them."""
        temperature = self.temperature if self.do_sample else 0.0
        return TextSampling(max_new_tokens, temperature, self.top_k, self.top_p, self.logits_processor)


@dataclass(frozen=True, kw_only=True)
class AnswerOptions(TextOptions):
    """How an answer is chosen:

    choices: the only texts that may be written. The answer is the one that the model finds likeliest. Nothing is
    sampled, and max_new_tokens and stop have no effect.
    """

    choices: Sequence[str] | None = None

    def __post_init__(self):
        super().__post_init__()
        chosen = self.choices is None or not self.do_sample
        require(chosen, "choices: the likeliest is taken, and none is sampled; leave do_sample out")


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(AnswerOptions):
    """In which language a caption is:

    language: one that the checkpoint lists, such as "en". The answer is the likeliest of its captions in this language.
    "any" leaves the model free. By default it is the first language of the list; but the model is free if a prompt is
    continued, or if the text is sampled, streamed, stopped or processed.
    """

    language: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.language in (None, "any"):
            return
        require(self.choices is None, "language: choices say which texts may be written; leave one of the two out")
        require(not self.do_sample, "language: the likeliest caption is taken, none is sampled; leave do_sample out")

    @property
    def plain(self) -> bool:
        """Whether all options of how a text is written are at their defaults."""
        streamed = self.streamer is not None  # an empty list of a user's own class streams too
        return not (self.choices or self.do_sample or streamed or self.stop or self.logits_processor)


@dataclass(frozen=True, kw_only=True)
class StepOptions(PictureSettings):
    """How pictures are returned, and watched while they are drawn:

    generator: one, or a list with one for each sample. A picture does not depend on its batch.
    output_type: "pil", "pt" (N, C, H, W) in [0, 1], "np" (N, H, W, C) or "latent" (N, n, C); lists where pictures
    differ in size.
    return_dict: False returns a tuple.
    callback_on_step_end: a function of (pipe, step, timestep, given), called after each step. `given` holds the tensors
    that were asked for. If it returns {"latents": x}, drawing goes on with x.
    callback_on_step_end_tensor_inputs: which tensors (N, n, C) it is given: "latents", and "pred_original_sample", the
    picture as it is expected to become; `decode_latents` shows it.
    """

    generator: torch.Generator | list[torch.Generator] | None = None
    output_type: str = "pil"
    return_dict: bool = True
    callback_on_step_end: Callable | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)

    def __post_init__(self):
        super().__post_init__()
        callback, inputs = self.callback_on_step_end, self.callback_on_step_end_tensor_inputs
        function = callback is None or callable(callback)
        require(function, f"callback_on_step_end must be a function, got {callback!r:.60}")
        names = isinstance(inputs, (list, tuple)) and all(isinstance(name, str) for name in inputs)
        require(names, f"callback_on_step_end_tensor_inputs must be a list of names, got {inputs!r:.60}")
        known = isinstance(self.output_type, str) and self.output_type in OUTPUT_TYPES
        require(known, f"output_type must be pil, pt, np or latent, got {self.output_type!r}")


@dataclass(frozen=True, kw_only=True)
class ImageOptions(StepOptions):
    """How many pictures, and how they begin:

    num_images_per_prompt: how many pictures are drawn of each prompt.
    latents: (N, n, C), the noise to begin with.
    temperature, top_k, top_p: how pictures of discrete tokens are sampled. By default as the checkpoint recommends,
    else 1 and all tokens.
    """

    num_images_per_prompt: int = 1
    latents: Tensor | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


def _from_options(kind: type, given: Mapping[str, Any]) -> Any:
    """A dataclass made of those arguments that are its fields."""
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given})


def takes(**groups: type) -> Callable:
    """Let a method take the fields of dataclasses as keyword arguments.

    groups: parameter of the method -> dataclass, of which it is given an instance. A field that two of them have goes
    to both. Unknown arguments raise an InputError that suggests the closest name, or, for an argument of diffusers or
    transformers, what to use here.
    """
    offered = {field.name: field for kind in groups.values() for field in fields(kind)}

    def decorate(call: Callable) -> Callable:
        own = [p for p in inspect.signature(call).parameters.values() if p.name not in groups]
        names = [p.name for p in own[1:]] + list(offered)

        @wraps(call)
        def taking(self, *inputs, **given):
            for name in given:
                if name not in names:
                    raise _unknown(type(self).__name__, name, names)
            built = {group: _from_options(kind, given) for group, kind in groups.items()}
            rest = {name: value for name, value in given.items() if name not in offered}
            self._interrupt = False  # what stopped an earlier call says nothing about this one
            return call(self, *inputs, **rest, **built)

        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for name, field in offered.items()
        ]
        taking.__signature__ = inspect.Signature(own + shared)  # type: ignore[attr-defined]  # which inspect reads
        kinds = [base for kind in groups.values() for base in kind.__mro__ if is_dataclass(base)]
        taking.__doc__ = "\n\n".join(inspect.cleandoc(each.__doc__ or "") for each in (call, *kinds))
        return taking

    return decorate


def _unknown(pipeline: str, name: str, known: Collection[str]) -> InputError:
    """The error for an argument that a pipeline does not take, with what does the same here."""
    media = [medium for medium in ("audio", "image") if medium in known]
    ours = media[0] if name == "inputs" and media else CALLS.get(name, "")
    first_word = re.split(r"\W", ours)[0]
    if first_word in known:
        return InputError(f"{pipeline} takes no {name!r}; say {ours}")
    if " " in ours:  # a sentence; a bare name is advice only where this pipeline has it
        return InputError(f"{pipeline} takes no {name!r}; {ours}")
    return InputError(f"{pipeline} takes no {name!r}{nearest(name, known)}")
