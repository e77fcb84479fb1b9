"""TextToSpeechPipeline: speech from texts; SpeechOutput, what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from mot_gen.errors import require
from mot_gen.pipelines.base import MultimodalPipeline, repeat_each
from mot_gen.pipelines.engine import Drawing, Guidance, Stream, TextSampling, choose
from mot_gen.pipelines.engine.blocks import passes_of, write_blocks
from mot_gen.pipelines.engine.samplers import row_generators
from mot_gen.pipelines.options import takes
from mot_gen.pipelines.settings import check_given
from mot_gen.sequence import Span
from mot_gen.sequence.moving import upload

MAX_UNITS = 250  # units that an utterance may have where neither the caller nor the context says less: ten seconds
_BOUNDS = 2  # the tokens that begin and end a span


@dataclass
class SpeechOutput(BaseOutput):
    """What TextToSpeechPipeline returns.

    audios: (T,) samples in [-1, 1] of each utterance, or its (n,) unit ids; sampling_rate: of the samples, in Hz.
    """

    audios: list
    sampling_rate: int


@dataclass(frozen=True, kw_only=True)
class SpeechOptions:
    """How speech is sampled and returned:

    max_new_tokens: after so many units an utterance is cut. By default as many as the context has room for, at most
    250.
    temperature: 0 always takes the likeliest unit and draws no random number. By default the checkpoint's
    `sampling.speech_temperature`, or else 1.
    top_k, top_p: sample among the k likeliest units alone (0 = all), or among the likeliest of total probability p.
    guidance_scale: 1 is conditional, 0 unconditional. Guidance acts on log-probabilities. By default the checkpoint's
    `sampling.speech_guidance_scale`, or else 1.
    num_waveforms_per_prompt: how many utterances are made of each prompt.
    generator: one, or a list with one for each utterance. An utterance does not depend on its batch.
    output_type: "np" arrays or "pt" tensors of samples, or "units", ids as the model wrote them.
    return_dict: False returns a tuple.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    guidance_scale: float | None = None
    num_waveforms_per_prompt: int = 1
    generator: torch.Generator | list[torch.Generator] | None = None
    output_type: str = "np"
    return_dict: bool = True

    def __post_init__(self):
        check_given(max_new_tokens=self.max_new_tokens)
        known = isinstance(self.output_type, str) and self.output_type in ("np", "pt", "units")
        require(known, f"output_type must be np, pt or units, got {self.output_type!r}")


class TextToSpeechPipeline(MultimodalPipeline):
    """Reads a prompt, opens a speech span, and writes units until the span ends; the tokenizer makes them sound.

    pipe = TextToSpeechPipeline.from_pretrained("runs/chameleon-speech/model")
    speech = pipe("seven")
    soundfile.write("seven.wav", speech.audios[0], speech.sampling_rate)
    """

    _without_text = ", or guidance_scale=0 for speech of nothing in particular"

    @torch.inference_mode()
    @takes(options=SpeechOptions)
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        options: SpeechOptions,
    ):
        """Speak each prompt in turn, `num_waveforms_per_prompt` times.

        prompt: a text, or a list of texts.
        negative_prompt: what guidance leads away from; nothing by default.

        Raises InputError, before any work, for what does not fit.
        """
        self._needs("speech", "speech_tokenizer")
        guidance = Guidance(self._default("speech_guidance_scale", options.guidance_scale, 1.0))
        temperature = self._default("speech_temperature", options.temperature, 1.0)
        prompts = repeat_each(self._text(prompt, unread=guidance.scale == 0), options.num_waveforms_per_prompt)
        negatives = self._negative(negative_prompt, prompts, "utterances")
        documents = {"conditional": prompts, "unconditional": negatives}
        units = self._units(options.max_new_tokens, [*prompts, *negatives])
        sampling = TextSampling(units, temperature, options.top_k, options.top_p)
        generators = row_generators(options.generator, len(prompts))
        rows: list[list[Span]] = []
        for branch in guidance.branches:
            rows += documents[branch]
        stream = Stream(self.model, rows, units, opens=["speech"] * len(rows))
        block_size = self.model.modality["speech"].block_size
        if block_size:
            drawing = Drawing(None, passes_of(block_size), guidance, generators, stopped=self._stopped)
            written = write_blocks(stream, "speech", drawing, sampling)
        else:
            written = write_units(stream, "speech", sampling, guidance, generators)
        audios = self._decode(list(map(_span_of, written)), options.output_type)
        output = SpeechOutput(audios=audios, sampling_rate=self.speech_tokenizer.sample_rate)
        return self._returned(output, options.return_dict, "audios")

    def _units(self, given: int | None, prompts: Sequence[Sequence[Span]]) -> int:
        """How many units may be written: what was asked for, or what the context has room for."""
        if given is None:
            given = max(1, min(MAX_UNITS, self._context - self._longest(prompts) - _BOUNDS))
        self._check_context(prompts, given + _BOUNDS)
        return given

    def _decode(self, spans: Sequence[Span], output_type: str) -> list:
        if output_type == "units":
            return [span.values.cpu() for span in spans]
        sounds = [sound.cpu() for sound in self.speech_tokenizer.decode_batch(spans)]
        if output_type == "pt":
            return sounds
        return [sound.numpy() for sound in sounds]


def _span_of(ids: Tensor) -> Span:
    """Written units (n,) as a span, which has one at least."""
    return Span("speech", ids if len(ids) else torch.zeros(1, dtype=torch.long))


def write_units(
    stream: Stream,
    modality: str,
    sampling: TextSampling,
    guidance: Guidance,
    generators: Sequence[torch.Generator] | None = None,
) -> list[Tensor]:
    """Write a span of units, which the model ends itself, in each row of a stream that has just opened it: (n,) ids.

    The rows are the branches of N samples under guidance, which all are given the same tokens. A span has one token at
    least, and is cut after `sampling.max_new_tokens`. A row that has ended draws no random number.
    """
    vocabulary, device, samples = stream.model.vocabulary, stream.device, stream.rows // len(guidance.branches)
    first, last = vocabulary.range(modality)
    may_follow = upload([*range(first, last), vocabulary.end[modality]], device)
    written: list[list[int]] = [[] for _ in range(samples)]
    writing = list(range(samples))
    for number in range(sampling.max_new_tokens):
        logits = stream.model.logits(stream.hidden)[:, may_follow].float().log_softmax(-1)
        logits = guidance.combine(logits)
        if not number:
            logits[:, -1] = float("-inf")
        if len(writing) < samples:
            logits = logits.index_select(0, upload(writing, device))
        own = None if generators is None else [generators[row] for row in writing]
        places = choose(logits, sampling, own).tolist()
        chosen = {row: place for row, place in zip(writing, places) if place < last - first}
        for row, place in chosen.items():
            written[row].append(place)
        writing = list(chosen)
        if not writing:
            break
        ids = [chosen.get(row, 0) + first for row in range(samples)] * len(guidance.branches)
        alive = [row in chosen for row in range(samples)] * len(guidance.branches)
        stream.append(ids, alive, modality)
    return [torch.tensor(ids) for ids in written]
