"""SpeechToTextPipeline: transcripts of recordings, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.errors import InputError
from mot_gen.pipelines.base import MultimodalPipeline, TextOutput
from mot_gen.pipelines.engine import TextSampling
from mot_gen.pipelines.image_to_text import write_texts


class SpeechToTextPipeline(MultimodalPipeline):
    """Hears a recording, and reads a prompt where one is given, and writes text until the document ends.

    pipe = SpeechToTextPipeline.from_pretrained("runs/chameleon-speech/model")
    pipe("seven.wav").texts
    """

    @torch.inference_mode()
    def __call__(
        self,
        audio,
        prompt: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        do_sample: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ):
        """One text per recording.

        audio: a path, the bytes of a file, a pair (samples, rate in Hz), or samples (T,) or (channels, T) at the
        tokenizer's rate, as a tensor or an array; or a list of these. prompt: text that follows each recording and is
        continued. max_new_tokens: by default the checkpoint's, as far as the context has room. do_sample False is
        greedy and draws no random number. Raises InputError for what is no sound, is silent, or does not fit the
        context.
        """
        self._needs("speech", "speech_tokenizer")
        recordings = audio if isinstance(audio, list) else [audio]
        if not recordings:
            raise InputError("audio: the list is empty; give at least one recording")
        prompts = [[span] for span in self.speech_tokenizer.encode_batch(recordings)]
        if prompt is not None:
            texts = self._text(prompt)
            if len(texts) not in (1, len(prompts)):
                raise InputError(f"prompt: {len(texts)} texts were given for {len(prompts)} recordings")
            prompts = [p + t for p, t in zip(prompts, texts * (len(prompts) // len(texts)))]
        max_new_tokens = self._new_tokens(max_new_tokens, prompts)
        sampling = TextSampling(max_new_tokens, temperature if do_sample else 0.0, top_k, top_p)
        texts = write_texts(self, prompts, sampling, generator)
        return TextOutput(texts=texts) if return_dict else (texts,)
