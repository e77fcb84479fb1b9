"""What of a prompt a checkpoint was never taught: known wordings pass, others are named with what is nearest; pipelines
warn once and point to their caller, the command prints one line."""

import json
import warnings

import pytest
from tiny_pipelines import PICTURE

from mot_gen.commands.main import main
from mot_gen.errors import InputError, UntaughtWarning
from mot_gen.pipelines.captions.languages import Languages
from mot_gen.pipelines.captions.phrase_slots import PhraseSlots
from mot_gen.pipelines.captions.taught import TaughtNames
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

ENGLISH = {
    "phrases": ["{}", "{}, mirrored", "{}, on red", "small {}, top left", "{} left of {}", "{} left of {}, on red"],
    "names": ["red apple", "owl", "fish", "elephant", "kiss, man", "small airplane", "airplane"],
}
GERMAN = {
    "phrases": ["{}", "{}, auf Rot", "{}, klein, oben links", "{} links von {}"],
    "names": ["roter apfel", "eule", "fisch", "elefant", "kuss", "kleines flugzeug", "flugzeug"],
}
STATED = {"en": ENGLISH, "de": GERMAN}


@pytest.mark.parametrize(
    "prompt",
    [
        "red apple",
        "a red apple, on red",
        "the red apple",
        "on red, top left, the small owl",
        "an elephant, mirrored",
        "small airplane",
        "small airplane, top left",
        "kiss, man, on red",
        "a fish left of an owl, on red",
        "roter apfel, auf Rot",
        "der elefant links von eule",
    ],
)
def test_what_was_taught_passes(prompt):
    assert Languages(STATED).untaught([prompt]) is None


@pytest.mark.parametrize(
    ("prompt", "named", "nearest"),
    [
        ("purple elephant of glass", "purple elephant of glass", "elephant"),
        ("red aple", "red aple", "red apple"),
        ("Red apple, on red", "Red apple", "red apple"),
        ("small blue fish, top left", "blue fish", "fish"),
        ("a fish left of a blue owl", "blue owl", "owl"),
        ("owl, on gold", "on gold", "on red"),
        ("ein elefant aus glas", "elefant aus glas", "elefant"),
        ("roter Apfel links von eule", "roter Apfel", "roter apfel"),
    ],
)
def test_what_was_not_is_named_with_what_is_nearest(prompt, named, nearest):
    said = Languages(STATED).untaught([prompt])
    assert said.startswith(f"prompt: {named!r} was never taught to this checkpoint")
    assert said.partition("the nearest that it knows: ")[2].split(", ")[0] == nearest


def test_where_nothing_is_alike_or_nothing_is_listed():
    assert Languages(STATED).untaught(["xyzzy"]).endswith("; it knows red apple, owl, fish, ...")
    assert Languages({}).untaught(["xyzzy"]) is None
    assert TaughtNames(**{key: GERMAN[key] for key in ("names", "phrases")}).nearest("Roter Apfel") == ["roter apfel"]


def test_a_prompt_is_put_together_of_what_was_taught():
    phrases = ["{}", "{}, mirrored", "{}, on red", "{}, on blue", "{}, mirrored, on red", "{}, mirrored, on blue"]
    phrases += ["{}, klein, oben links", "{}, klein, unten links", "{} above {}", "{} below {}"]
    slots = PhraseSlots(phrases)
    assert slots.attributes == [["mirrored"], ["on red", "on blue"], ["oben links", "unten links"]]
    assert slots.relations == ["{} above {}", "{} below {}"]
    assert slots.prompt(["owl"], ["on red", "mirrored"]) == "owl, mirrored, on red"
    assert slots.prompt(["owl"], ["unten links"]) == "owl, klein, unten links"
    assert slots.prompt(["owl", "fish"], ["{} below {}"]) == "owl below fish"
    with pytest.raises(InputError, match="'mirrored' and 'oben links' were never taught together; leave one out"):
        slots.prompt(["owl"], ["oben links", "mirrored"])
    for prompt in (slots.prompt(["owl"], [piece]) for slot in slots.attributes for piece in slot):
        assert TaughtNames(["owl"], phrases).missing(prompt) == []


def test_a_call_warns_once_and_points_to_who_called(pipeline):
    pipe = pipeline(TextToImagePipeline)
    pipe.languages = Languages(STATED)
    with pytest.warns(UntaughtWarning, match=r"'sheep' was never taught .* \(so it is with 1 more\)") as caught:
        pipe(["sheep", "owl", "goat"], num_inference_steps=1)
    assert [each.filename for each in caught] == [__file__]
    changes = pipeline(ImageToImagePipeline)
    changes.languages = pipe.languages
    with pytest.warns(UntaughtWarning, match="'sheep'") as caught:
        changes("sheep", PICTURE, strength=0.5, num_inference_steps=2)
    assert [each.filename for each in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntaughtWarning)
        pipe(["owl", "fish left of owl"], num_inference_steps=1)
        pipe("sheep", guidance_scale=0, num_inference_steps=1)  # which reads no prompt
        changes("make it a sheep", PICTURE, num_inference_steps=1)  # which says what to change


def test_the_command_says_it_in_one_line(pipeline, tmp_path, capsys):
    folder = tmp_path / "tiny"
    pipeline(TextToImagePipeline).save_pretrained(folder)
    (folder / "model" / "answers.json").write_text(json.dumps(STATED), encoding="utf-8")
    (folder / "manifest.json").unlink()
    asked = ["generate", str(folder), "--to", "image", "--num-inference-steps", "1", "--out", str(tmp_path / "a.png")]
    assert main([*asked, "--prompt", "red aple"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mot-gen: prompt: 'red aple' was never taught") and line.endswith("knows: red apple")
    assert main([*asked, "--prompt", "red apple"]) == 0
    assert capsys.readouterr().err == ""
