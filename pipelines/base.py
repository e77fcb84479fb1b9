"""What every pipeline shares: MultimodalPipeline; repeat_each, each_alone, scheduler_of.

A pipeline is a model, the tokenizers of its modalities and a diffusers scheduler, in one folder (`model_index.json`);
every task's pipeline reads the same folder. `DiffusionPipeline.from_pretrained` does not know these classes: call
`from_pretrained` of the class itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline  # elsewhere mypy finds a dummy
from diffusers.utils import BaseOutput

from mot_gen.backbone.routing import store_for_decoding
from mot_gen.checkpoints.dtypes import check_dtype
from mot_gen.errors import require
from mot_gen.files import manifest
from mot_gen.model import MultimodalModel
from mot_gen.packing import document_length
from mot_gen.pipelines.captions import languages
from mot_gen.pipelines.chat import ChatFormat, PartReader, spans_of
from mot_gen.pipelines.engine.held_model import check_weights, held_model
from mot_gen.pipelines.pretrained import bind, load, refuse_misfits, refuse_variant, take_device
from mot_gen.pipelines.settings import are_all, is_count, listed_texts
from mot_gen.sequence import Span, only_read

LONGEST = 16_384  # tokens of a document where the checkpoint states no context; their mask alone takes a gigabyte


class MultimodalPipeline(DiffusionPipeline):
    """A model, the tokenizers of its modalities and a scheduler, with what the pipelines of all tasks share."""

    _without_text = ""  # what a pipeline advises where no text is given
    _optional_components = [  # noqa: RUF012  diffusers declares it of instances
        "image_tokenizer",
        "speech_tokenizer",
        "scheduler",
        "sight_tokenizer",
        "vector_tokenizer",
    ]
    _writes: ClassVar[str] = "text"  # what follows a prompt, for chat templates
    _task: ClassVar[str | None] = None  # the key of `sampling` under which this pipeline's own defaults stand
    model_cpu_offload_seq: Any = "model"

    model: MultimodalModel
    text_tokenizer: Any
    image_tokenizer: Any
    speech_tokenizer: Any
    sight_tokenizer: Any
    vector_tokenizer: Any
    scheduler: Any
    config: Any  # diffusers' FrozenDict, whose entries are attributes as well

    def __init__(
        self,
        model: MultimodalModel,
        text_tokenizer,
        image_tokenizer=None,
        speech_tokenizer=None,
        scheduler=None,
        sampling: dict | None = None,
        sight_tokenizer=None,
        vector_tokenizer=None,
    ):
        """sight_tokenizer: what pictures are read by, where that is not what they are drawn by.

        sampling: the checkpoint's own defaults, such as {"num_inference_steps": 20, "guidance_scale": 2.0}."""
        super().__init__()
        self.register_modules(
            model=model,
            text_tokenizer=text_tokenizer,
            image_tokenizer=image_tokenizer,
            speech_tokenizer=speech_tokenizer,
            scheduler=scheduler,
            sight_tokenizer=sight_tokenizer,
            vector_tokenizer=vector_tokenizer,
        )
        self.register_to_config(sampling=sampling)
        refuse_misfits(self)
        if not model.backbone.causal:
            warnings.warn(
                "this backbone's experts chose their tokens with a view of later ones; while generating each one goes "
                "to its own best expert, so that what is generated falls short of the training loss",
                stacklevel=2,
            )

    @property
    def components(self) -> dict[str, Any]:
        """What `Pipeline(**pipe.components)` takes: the parts, then shared, and the checkpoint's `sampling`."""
        return {**super().components, "sampling": self.config.sampling}

    @classmethod
    def from_pipe(cls, pipeline: MultimodalPipeline, **kwargs: Any):
        """As in diffusers: over the components of another pipeline, shared as they are; kwargs replace some of them."""
        return cls(**{**pipeline.components, **kwargs})

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device=None) -> None:
        """As in diffusers: the model waits on the CPU and is moved while it is used. InputError without a GPU."""
        there = device is not None or torch.accelerator.is_available()
        require(there, "enable_model_cpu_offload: there is no GPU here, and the model is on the CPU already")
        super().enable_model_cpu_offload(gpu_id, device)

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """As in diffusers, with the tokenizers' fingerprints in the model's config and a manifest of the files.
        InputError where weights are on the disk or in 8 bits."""
        held = not any(parameter.is_meta for parameter in self.model.parameters())
        require(held, "save_pretrained: the weights are not in memory; load the model without weights=... first")
        bind(self)
        super().save_pretrained(save_directory, *args, **kwargs)
        languages.keep(self.model.answers, Path(save_directory) / "model")
        manifest.write(Path(save_directory))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """As in diffusers, from a run's folder, its `model/`, a converted folder, a shipped name, or a hub name.

        dtype: of the weights, as torch.bfloat16 or "bfloat16"; float32 by default.
        weights: "memory"; or, for generation alone, "disk" or "int8", see `held_model`.
        trust_remote_code: whether the folder may name modules outside of this package, which are then run.
        InputError, which names the folder, where it is missing, damaged, incomplete, or its parts do not fit.
        """
        check_dtype(kwargs)
        device = take_device(kwargs)
        weights = kwargs.pop("weights", "memory")
        check_weights(weights)
        if weights != "memory":
            kwargs["model"] = held_model(pretrained_model_name_or_path, weights, kwargs.get("dtype"))
        build = super().from_pretrained

        def built(folder):
            refuse_variant(folder, kwargs.get("variant"))
            return build(folder, **kwargs)

        pipe = load(pretrained_model_name_or_path, built, kwargs)
        if weights == "memory":
            store_for_decoding(pipe.model)
        return pipe if device is None else pipe.to(device)

    @property
    def _own(self) -> dict[str, Any]:
        """The checkpoint's own settings, those of this pipeline's task before those of all."""
        stated = self.config.sampling or {}
        return {**stated, **(stated.get(self._task) or {})}

    def _default(self, name: str, given, fallback):
        """What the caller gave, else the checkpoint's own default, else the field's."""
        return self._own.get(name, fallback) if given is None else given

    def _text(
        self, texts, name: str = "prompt", unread: bool = False, size: tuple[int, int] | None = None
    ) -> list[list[Span]]:
        """Texts -> a list of spans each; InputError for what is no text, or empty. unread: at guidance_scale 0 nothing
        of the prompt is read, so it may be empty. size: (height, width) of the picture that is drawn next."""
        texts = listed_texts(texts)
        given = f"{type(texts).__name__} {texts!r:.60}"
        require(are_all(texts, str), f"{name} must be a text or a list of texts, got {given}")
        if unread:
            return [[] for _ in texts]
        require(all(texts), f"{name} is empty; give some text{self._without_text}")
        if self._chat_format is not None:
            return [self._message(text, size=size, negative=name == "negative_prompt") for text in texts]
        return each_alone(self.text_tokenizer.encode_batch(texts))

    @property
    def _chat_format(self) -> ChatFormat | None:
        """How a prompt becomes a message around which the chat template writes; None where it stands as it is."""
        stated = self._default("chat", None, False)
        if not stated:
            return None
        return ChatFormat(**stated) if isinstance(stated, Mapping) else ChatFormat()

    def _message(self, text: str | None, picture: list[Span] | None = None, **about: Any) -> list[Span]:
        """What the chat template makes of a picture's spans, where one is given, and a text. about: see
        `ChatFormat`."""
        messages = (self._chat_format or ChatFormat()).messages(text or "", picture, **about)
        reading = PartReader(lambda given: [self.text_tokenizer.encode(given)], lambda spans: spans, self._writes)
        return spans_of(messages, self.text_tokenizer, reading)

    def _needs(self, modality: str, tokenizer: str) -> None:
        """InputError unless the checkpoint has this modality, and the pipeline its tokenizer."""
        names = self.model.modality_names
        require(modality in names, f"this checkpoint has no {modality}; it has {', '.join(names)}")
        has = getattr(self, tokenizer) is not None
        require(has, f"{type(self).__name__} has no {tokenizer}; give it one, or load it by from_pretrained")

    def _negative(
        self, negative_prompt, prompts: list[list[Span]], what: str = "images", size: tuple[int, int] | None = None
    ) -> list[list[Span]]:
        """A negative document for each prompt; by default the checkpoint's own."""
        texts, count = self._default("negative_prompt", negative_prompt, None), len(prompts)
        if texts is None:
            return self._unconditional(prompts, size)
        given = self._text(texts, "negative_prompt", size=size)
        require(count % len(given) == 0, f"negative_prompt: {len(given)} texts were given for {count} {what}")
        return repeat_each(given, count // len(given))

    def _unconditional(self, prompts: list[list[Span]], size: tuple[int, int] | None) -> list[list[Span]]:
        """Unconditional documents, by the checkpoint's setting `unconditional`: "empty"; "hidden" (empty, but what
        follows keeps its position after the prompt); "template" (of an empty message); or {"filled": id} (the prompt,
        each id replaced)."""
        kind = self._default("unconditional", None, "empty")
        if kind == "template":
            return [self._message("", negative=True, size=size)] * len(prompts)
        if isinstance(kind, Mapping):
            return [[self._filled(span, kind["filled"]) for span in prompt] for prompt in prompts]
        return [[]] * len(prompts)

    @cached_property
    def languages(self) -> languages.Languages:
        """What the checkpoint lists of captions, by language."""
        return languages.Languages.of_file(self.model.answers)

    # ---------------------------------------------------------------- lengths

    @property
    def _context(self) -> int:
        """The most tokens of a document."""
        return self.model.config.context or LONGEST

    def _longest(self, prompts: Sequence[Sequence[Span]]) -> int:
        return max(document_length(prompt, self.model.modalities) for prompt in prompts)

    def _check_context(self, prompts: Sequence[Sequence[Span]], room: int) -> None:
        """InputError where a prompt and what is to be written do not fit the length that the model was trained on."""
        trained, longest = self.model.config.context, self._longest(prompts)
        why = "the model was trained on" if trained else "are taken where a model states no context"
        require(
            longest + room <= self._context,
            f"prompt: its {longest} tokens and the {room} to be written exceed the {self._context} that {why}; "
            "shorten it",
        )

    def _filled(self, span: Span, id: int) -> Span:
        """A span of text with this id in every place; any other as it is."""
        if span.modality != self.model.modality_names[0]:
            return span
        return replace(span, values=torch.full_like(span.values, id))

    def _new_tokens(self, given: int | None, prompts: Sequence[Sequence[Span]]) -> int:
        """How many tokens may be written: what was asked for (InputError if it does not fit), else the checkpoint's
        default (64 without one) as far as the context has room."""
        if given is None:
            room = self._context - self._longest(prompts)
            given = max(1, min(self._default("max_new_tokens", None, 64), room))
        self._check_context(prompts, given)
        return given

    # ---------------------------------------------------------------- a call

    def seen(self, images: Sequence, drawn: bool) -> list[list[Span]]:
        """The spans that each picture is read as. drawn: whether pictures are drawn after it, so that it is also given
        in the tokens that they are drawn in."""
        tokenizers = []
        if drawn or self.sight_tokenizer is None:
            tokenizers.append(self.image_tokenizer)
        if self.sight_tokenizer is not None:
            tokenizers.append(self.sight_tokenizer)
        read = zip(*(tokenizer.encode_batch(images) for tokenizer in tokenizers))
        return [only_read(spans) for spans in read]

    def _opens_text(self, documents: int) -> list[str | None]:
        """What stands open at the end of prompts that a text follows: where texts are wrapped, a new one."""
        text = self.model.modality_names[0]
        return [text if self.model.vocabulary.wraps else None] * documents

    def _returned(self, output: BaseOutput, return_dict: bool, *names: str) -> Any:
        """What a call returns: its output, or these fields of it as a tuple. Parts that were moved to be used go back,
        see `enable_model_cpu_offload`."""
        self.maybe_free_model_hooks()
        return output if return_dict else tuple(getattr(output, name) for name in names)

    def _stopped(self) -> bool:
        """Whether `pipe._interrupt` was set while this call runs, which is how diffusers stops from a callback."""
        return getattr(self, "_interrupt", False)


def repeat_each(items: Sequence, times: int) -> list:
    """[a, b], 2 -> [a, a, b, b]."""
    require(is_count(times), f"the number of samples per prompt must be a positive integer, got {times!r}")
    return [item for item in items for _ in range(times)]


def each_alone(spans: Iterable[Span]) -> list[list[Span]]:
    """Each span as a document of its own."""
    return [[span] for span in spans]


def scheduler_of(model: MultimodalModel) -> Any:
    """The scheduler of the first modality that is drawn by steps; None where a model has none."""
    for modality in model.modalities:
        if not modality.discrete and not modality.input_only:
            return model.objectives[modality.name].scheduler()
    return None
