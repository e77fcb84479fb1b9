"""SpeechToTextPipeline: transcripts of recordings, and answers to questions about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mot_gen.pipelines.options import AnswerOptions, takes
from mot_gen.pipelines.text_writing import TextWritingPipeline


class SpeechToTextPipeline(TextWritingPipeline):
    """Hears a recording, and reads a prompt where one is given, and writes text until the document ends.

    pipe = SpeechToTextPipeline.from_pretrained("runs/chameleon-speech/model")
    pipe("seven.wav").texts
    """

    @torch.inference_mode()
    @takes(options=AnswerOptions)
    def __call__(self, audio, prompt: str | Sequence[str] | None = None, *, options: AnswerOptions):
        """Write one text for each recording.

        audio: a path, the bytes of a file, a pair (samples, rate in Hz), or samples (T,) or (channels, T) at the
        tokenizer's rate, as a tensor or an array; or a list of these.
        prompt: text that follows each recording and is continued.

        Raises InputError for what is no sound, is silent, or does not fit the context.
        """
        self._needs("speech", "speech_tokenizer")
        prompts = self._asked(self._media(audio, self.speech_tokenizer, "audio"), prompt, "recordings")
        return self._as_output(self._continued(prompts, options), options)
