"""Speech to text and back, of a `chameleon-speech` run: prints JSON, may write sounds.

`python -m benchmarks.spoken_digits RUN`

RUN: a run's folder, as `mot-gen train chameleon-speech` leaves it. On the speakers that training never heard:

speech_to_text: transcripts that are what was said, word for word. text_to_speech: every text asked for --each times,
heard by recognisers; right is the text that was asked for. Each recogniser's accuracy on the held-out recordings
themselves, and on what the tokenizer makes of them, stands beside it: the one is what it hears at all, the other
what the model could reach. Recognisers: a CNN trained on the recordings of the training speakers; and PocketSphinx
held to the texts, where it is installed.

--out FOLDER: the first utterance of each text as WAV, and mel.png, recorded above generated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speech_units import mel_picture, stacked
from mot_gen.datasets.spoken_digits import Utterance, digit_in_text
from mot_gen.errors import InputError
from mot_gen.eval.speech.recognition import SphinxRecognizer, WordRecognizer
from mot_gen.files.audio_files import load_audio, save_audio
from mot_gen.pipelines.speech_to_text import SpeechToTextPipeline
from mot_gen.pipelines.text_to_speech import TextToSpeechPipeline
from mot_gen.recipes.recipe import load_recipe
from mot_gen.tokenizers.speech_features import MelSettings, at_level, log_mel
from mot_gen.training.build import load_splits

BATCH = 64
TRAINED_ON = 1400  # recordings that the CNN learns from
RESYNTHESISED = 120  # recordings


def utterances(samples: Sequence) -> list[Utterance]:
    return [sample for sample in samples if isinstance(sample, Utterance)]


def drawn(items: Sequence, count: int) -> list:
    """Some of the items, by chance: they stand in the order of texts, which any stride would choose among."""
    chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:count]
    return [items[i] for i in chosen.tolist()]


def in_batches(call: Callable, items: Sequence) -> list:
    return [result for start in range(0, len(items), BATCH) for result in call(items[start : start + BATCH])]


def accuracies(texts: Sequence[str], wanted: Sequence[str]) -> dict:
    """Share of texts that are those wanted, word for word, and that name their digit."""
    pairs = [(text.strip(), right) for text, right in zip(texts, wanted, strict=True)]
    alone = [text == right for text, right in pairs if " " not in right]
    return {
        "exact": sum(text == right for text, right in pairs) / len(pairs),
        "exact_of_words_alone": sum(alone) / max(1, len(alone)),
        "digit": sum(digit_in_text(text) == digit_in_text(right) for text, right in pairs) / len(pairs),
        "n": len(pairs),
    }


def recognizers(learned: Sequence[Utterance], rate: int) -> dict[str, Callable]:
    """By name: the CNN, trained here, and PocketSphinx if it is installed."""
    some = drawn(learned, TRAINED_ON)
    sounds = [load_audio(each.sound, rate)[0] for each in some]
    found = {"cnn": WordRecognizer.train(sounds, [each.text for each in some], rate)}
    try:
        found["pocketsphinx"] = SphinxRecognizer(sorted({each.text for each in learned}))
    except InputError as error:
        print(error)
    return found


def mel_rows(sounds: Sequence[Tensor], rate: int) -> list:
    mel = MelSettings(rate, f_max=rate / 2)
    return [mel_picture(log_mel(at_level(sound)[None], mel)[0], mel.log_floor) for sound in sounds]


def main() -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--each", type=int, default=10, help="utterances generated of each text")
    parser.add_argument("--temperature", type=float, help="default: the checkpoint's own, as of guidance")
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = load_splits(load_recipe(args.run / "recipe.yaml"))
    unheard, speak = utterances(splits.held_out), TextToSpeechPipeline.from_pretrained(args.run / "model")
    tokenizer, rate = speak.speech_tokenizer, speak.speech_tokenizer.sample_rate
    recorded, said = [load_audio(each.sound, rate)[0] for each in unheard], [each.text for each in unheard]
    hear = SpeechToTextPipeline(**speak.components)
    heard = in_batches(lambda part: hear(part, max_new_tokens=12).texts, recorded)
    texts = [text for text in dict.fromkeys(said) for _ in range(args.each)]
    options = {"temperature": args.temperature, "guidance_scale": args.guidance_scale, "output_type": "pt"}
    generator = torch.Generator().manual_seed(0)
    spoken = in_batches(lambda part: speak(part, generator=generator, **options).audios, texts)
    some = drawn(range(len(recorded)), RESYNTHESISED)
    again = tokenizer.decode_batch(tokenizer.encode_batch([recorded[i] for i in some]))
    if args.out:
        write(args.out, texts, spoken, dict(zip(said, recorded)), rate, args.each)
    return {
        "speech_to_text": accuracies(heard, said),
        "text_to_speech": {
            name: {
                "generated": accuracies(hear(spoken, rate), texts),
                "recorded": accuracies(hear(recorded, rate), said),
                "resynthesised": accuracies(hear(again, rate), [said[i] for i in some]),
            }
            for name, hear in recognizers(utterances(splits.train), rate).items()
        },
        "temperature": args.temperature,
        "guidance_scale": args.guidance_scale,
        "seconds_an_utterance": sum(map(len, spoken)) / rate / len(spoken),
        "seconds_a_recording": sum(map(len, recorded)) / rate / len(recorded),
        "held_out_speakers": len({each.id.split("/")[1] for each in unheard}),
    }


def write(folder: Path, texts: Sequence[str], spoken: Sequence[Tensor], recorded: dict, rate: int, each: int) -> None:
    """The first utterance of each text as WAV; mel.png: recorded, above generated, of four texts."""
    folder.mkdir(parents=True, exist_ok=True)
    first = dict(zip(texts[::each], spoken[::each]))
    for text, sound in first.items():
        save_audio(folder / f"{text.replace(' ', '-')}.wav", sound, rate)
    shown = list(first)[:4]
    rows = [row for text in shown for row in mel_rows([recorded[text], first[text]], rate)]
    stacked(rows).save(folder / "mel.png")


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
