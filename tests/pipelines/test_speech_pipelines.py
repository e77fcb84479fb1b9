"""Speech pipelines: batches, cached against full forward passes, guidance, output types, saving, bad inputs."""

import copy

import numpy as np
import pytest
import torch
from tiny import clean, generator, model
from tokenizer_examples import EXAMPLES, chirp, speech_tokenizer

from mot_gen.errors import InputError
from mot_gen.files.audio_files import save_audio
from mot_gen.packing import pack_rows
from mot_gen.pipelines.base import MultimodalPipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.speech_to_text import SpeechToTextPipeline
from mot_gen.pipelines.text_to_speech import TextToSpeechPipeline
from mot_gen.sequence import Span

PROMPTS = ["a seven", "a handwritten nine and a seven"]


@pytest.fixture(scope="module")
def parts():
    """Text, and 20 speech units a fortieth of a second each, under a tiny untrained model."""
    text, speech = EXAMPLES["TextTokenizer"][0](), speech_tokenizer(steps=1)
    net = model([text.modality, speech.modality], context=128)
    return {"model": net, "text_tokenizer": text, "speech_tokenizer": speech}


@pytest.fixture
def speak(parts):
    return TextToSpeechPipeline(**parts)


@pytest.fixture
def hear(parts):
    return SpeechToTextPipeline(**parts)


@pytest.fixture(scope="module")
def recordings():
    """Three of different lengths."""
    return [chirp(number)[:length] for number, length in enumerate((16000, 7000, 11000))]


# ---------------------------------------------------------------- references


@torch.no_grad()
def spoken_greedily(pipe, prompt, count, scale=1.0):
    """Unit after unit, each by whole forward passes over what stands before it, without a cache."""
    net, written = pipe.model, []
    first, last = net.vocabulary.range("speech")
    documents = [pipe.text_tokenizer.encode_batch([prompt]), []]
    for _ in range(count):
        scores = []
        for document in documents:
            # The state after the begin token is that before the first of any units that follow.
            units = Span("speech", torch.tensor([*written, 0]))
            batch = clean(pack_rows([[[*document, units]]], net.modalities, 128))
            states = net.backbone(net.embed(batch)[0], batch.layout)[0]
            end = int((batch.ids[0] == net.vocabulary.end["speech"]).nonzero())
            scores.append(
                net.head(states[end - 2])[[*range(first, last), net.vocabulary.end["speech"]]].log_softmax(-1)
            )
        guided = torch.lerp(scores[1], scores[0], scale)
        if not written:
            guided[-1] = float("-inf")
        if guided.argmax() == last - first:
            break
        written.append(int(guided.argmax()))
    return written


@torch.no_grad()
def written_greedily(pipe, span, count):
    net, written = pipe.model, []
    for _ in range(count):
        sample = [span, Span("text", torch.tensor([*written, 0]))]
        batch = clean(pack_rows([[sample]], net.modalities, 128))
        states = net.backbone(net.embed(batch)[0], batch.layout)[0]
        end = int((batch.ids[0] == net.vocabulary.document_end).nonzero())
        logits = net.head(states[end - 2])
        allowed = torch.full_like(logits, float("-inf"))
        allowed[: net.modalities[0].vocab_size] = 0
        allowed[[net.vocabulary.document_end, *net.vocabulary.begin.values()]] = 0
        token = int((logits + allowed).argmax())
        if token >= net.modalities[0].vocab_size:
            break
        written.append(token)
    return pipe.text_tokenizer.decode(Span("text", torch.tensor(written, dtype=torch.long)))


# ---------------------------------------------------------------- text to speech


@pytest.mark.parametrize("scale", [1.0, 0.0, 2.5])
def test_units_with_a_cache_are_units_by_full_passes(speak, scale):
    """Prompts of different lengths, with guidance as one batched pair."""
    spoken = speak(PROMPTS, temperature=0, max_new_tokens=12, guidance_scale=scale, output_type="units").audios
    assert [ids.tolist() for ids in spoken] == [spoken_greedily(speak, prompt, 12, scale) for prompt in PROMPTS]


def test_an_utterance_does_not_depend_on_its_batch(speak):
    options = {"max_new_tokens": 9, "guidance_scale": 1.5, "output_type": "pt"}
    together = speak(PROMPTS, generator=[generator(1), generator(2)], **options).audios
    for number, prompt in enumerate(PROMPTS):
        (alone,) = speak(prompt, generator=[generator(number + 1)], **options).audios
        torch.testing.assert_close(alone, together[number])
    options["output_type"] = "units"
    one, again = (speak("a", num_waveforms_per_prompt=2, generator=generator(3), **options).audios for _ in range(2))
    assert all(map(torch.equal, one, again)) and one[0].tolist() != one[1].tolist()


def test_greedy_speech_does_not_touch_the_random_state(speak):
    before = torch.get_rng_state()
    first = speak(PROMPTS, temperature=0, max_new_tokens=5, output_type="units").audios
    assert torch.equal(torch.get_rng_state(), before)
    again = speak(PROMPTS, temperature=0, max_new_tokens=5, output_type="units", generator=generator(4)).audios
    assert all(map(torch.equal, first, again))


def test_output_types_are_the_same_utterance(speak):
    options = {"max_new_tokens": 8, "num_waveforms_per_prompt": 2}
    spoken = {
        kind: speak("nine", generator=generator(0), output_type=kind, **options) for kind in ("np", "pt", "units")
    }
    assert spoken["np"].sampling_rate == 16000
    for array, tensor, ids in zip(*(spoken[kind].audios for kind in ("np", "pt", "units"))):
        assert array.dtype == np.float32 and np.array_equal(array, tensor.numpy()) and abs(array).max() <= 1
        assert 1 <= len(ids) <= 8 and len(array) == 640 * len(ids)
        torch.testing.assert_close(speak.speech_tokenizer.decode(Span("speech", ids)), tensor)
    assert isinstance(speak("nine", max_new_tokens=1, return_dict=False), tuple)


def test_units_fill_the_context_at_most(parts):
    net = copy.deepcopy(parts["model"])
    net.head = torch.nn.Linear(net.backbone.dim, net.vocabulary.size)
    net.head.bias.data[net.vocabulary.range("speech")[0]] = 1e4  # the span never ends by itself
    (ids,) = TextToSpeechPipeline(**parts | {"model": net})("nine", output_type="units").audios
    prompt = len(parts["text_tokenizer"].encode("nine"))
    assert len(ids) == 128 - (2 + prompt) - 2 and not ids.any()


# ---------------------------------------------------------------- speech to text


def test_transcripts_with_a_cache_are_those_of_full_passes(hear, recordings):
    spans = hear.speech_tokenizer.encode_batch(recordings)
    want = [written_greedily(hear, span, 8) for span in spans]
    assert hear(recordings, max_new_tokens=8).texts == want
    assert [hear(sound, max_new_tokens=8).texts[0] for sound in recordings] == want


def test_any_form_of_a_recording_is_heard_alike(hear, recordings, tmp_path):
    sound = (recordings[0] * 2**15).round() / 2**15
    save_audio(tmp_path / "a.wav", sound, 16000)
    (want,) = hear(sound, max_new_tokens=6).texts
    path = tmp_path / "a.wav"
    forms = [path, str(path), path.read_bytes(), (sound, 16000), (sound.numpy(), 16000), sound.numpy(), sound[None]]
    assert hear(forms, max_new_tokens=6).texts == [want] * len(forms)
    assert [hear(form, max_new_tokens=6).texts for form in forms] == [[want]] * len(forms)


def test_a_question_follows_the_recording(hear, recordings):
    asked = hear(recordings, prompt="what", max_new_tokens=6).texts
    assert asked == [hear(sound, prompt=["what"], max_new_tokens=6).texts[0] for sound in recordings]


def test_sampled_transcripts_do_not_depend_on_their_batch(hear, recordings):
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5}
    together = hear(recordings, generator=[generator(n) for n in range(3)], **options).texts
    alone = [hear(sound, generator=[generator(n)], **options).texts[0] for n, sound in enumerate(recordings)]
    assert together == alone and len(set(together)) > 1


def test_what_is_said_can_be_heard(speak, hear):
    spoken = speak(PROMPTS, max_new_tokens=9, generator=generator(0))
    heard = hear([(samples, spoken.sampling_rate) for samples in spoken.audios], max_new_tokens=4).texts
    assert len(heard) == 2


# ---------------------------------------------------------------- saving, and what is refused


def test_saved_and_loaded_both_directions_are_the_same(parts, recordings, tmp_path):
    MultimodalPipeline(**parts).save_pretrained(tmp_path)
    for cls, call in (
        (
            TextToSpeechPipeline,
            lambda pipe: pipe(PROMPTS, max_new_tokens=10, generator=generator(0), output_type="pt").audios,
        ),
        (SpeechToTextPipeline, lambda pipe: pipe(recordings, max_new_tokens=6).texts),
    ):
        back = cls.from_pretrained(tmp_path)
        assert {name: type(part) for name, part in back.components.items()} == {
            name: type(part) for name, part in cls(**parts).components.items()
        }
        assert back.speech_tokenizer.fingerprint == parts["speech_tokenizer"].fingerprint
        for before, after in zip(call(cls(**parts)), call(back)):
            assert before == after if isinstance(before, str) else torch.allclose(before, after, atol=1e-5)


LONG = "a very long prompt " * 20


@pytest.mark.parametrize(
    "cls, arguments, complaint",
    [
        (TextToSpeechPipeline, {"prompt": ""}, "prompt is empty"),
        (TextToSpeechPipeline, {"prompt": 7}, "prompt must be a text or a list of texts"),
        (TextToSpeechPipeline, {"prompt": LONG}, "exceed the 128"),
        (TextToSpeechPipeline, {"prompt": "a", "negative_prompt": LONG}, "exceed the 128"),
        (TextToSpeechPipeline, {"prompt": ["a", "b", "c"], "negative_prompt": ["a", "b"]}, "2 texts .* 3 utterances"),
        (TextToSpeechPipeline, {"prompt": "a", "max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        (TextToSpeechPipeline, {"prompt": "a", "max_new_tokens": 127}, "exceed the 128"),
        (TextToSpeechPipeline, {"prompt": "a", "temperature": float("nan")}, "temperature"),
        (TextToSpeechPipeline, {"prompt": "a", "top_p": 2.0}, "top_p"),
        (TextToSpeechPipeline, {"prompt": "a", "guidance_scale": -1.0}, "guidance_scale"),
        (TextToSpeechPipeline, {"prompt": "a", "num_waveforms_per_prompt": 0}, "must be a positive integer, got 0"),
        (TextToSpeechPipeline, {"prompt": "a", "output_type": "wav"}, "output_type must be np, pt or units"),
        (TextToSpeechPipeline, {"prompt": "a", "generator": [torch.Generator()] * 2}, "2 generators"),
        (SpeechToTextPipeline, {"audio": []}, "audio: the list is empty"),
        (SpeechToTextPipeline, {"audio": b"no sound"}, "not sound that can be read"),
        (SpeechToTextPipeline, {"audio": "missing.wav"}, "missing.wav: no such sound file"),
        (SpeechToTextPipeline, {"audio": torch.zeros(16000)}, "is silent"),
        (SpeechToTextPipeline, {"audio": torch.full((900,), float("nan"))}, "NaN"),
        (SpeechToTextPipeline, {"audio": torch.rand(16000 * 6) - 0.5}, "exceed the 128"),
        (SpeechToTextPipeline, {"audio": torch.rand(900), "prompt": ["a", "b"]}, "2 texts were given for 1 recordings"),
        (SpeechToTextPipeline, {"audio": torch.rand(900), "max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_bad_requests_are_refused_before_any_work(parts, monkeypatch, cls, arguments, complaint):
    monkeypatch.setattr(parts["model"].backbone, "forward", lambda *_: pytest.fail("work was done before the check"))
    with pytest.raises(InputError, match=complaint) as error:
        cls(**parts)(**arguments)
    assert "\n" not in str(error.value)


def test_a_model_without_speech_says_what_it_has(components, parts):
    others = components()
    for cls, given in ((TextToSpeechPipeline, {"prompt": "a"}), (SpeechToTextPipeline, {"audio": torch.rand(900)})):
        with pytest.raises(InputError, match="this checkpoint has no speech; it has text, image"):
            cls(**others)(**given)
    with pytest.raises(InputError, match="TextToSpeechPipeline has no speech_tokenizer; give it one"):
        TextToSpeechPipeline(parts["model"], parts["text_tokenizer"])("a")
    with pytest.raises(InputError, match="this checkpoint has no image; it has text, speech"):
        ImageToTextPipeline(**parts)(torch.rand(3, 4, 6))
