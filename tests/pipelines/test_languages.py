"""Captions in the language that is asked for: the tree of phrases is that of its texts; what is asked is answered; a
checkpoint keeps what it lists; what cannot be is refused."""

import json
from itertools import product

import pytest
import torch
from tiny import generator
from tiny_pipelines import PICTURE

from mot_gen.errors import InputError
from mot_gen.pipelines.captions.languages import Languages
from mot_gen.pipelines.captions.text_choices import Choices
from mot_gen.pipelines.image_to_text import ImageToTextPipeline

PHRASES = ["{}", "small {}", "small {}, on red", "{}, mirrored", "{}, on red"]
NAMES = ["seven", "a nine", "seven, nine", "small seven", "seven, mirrored x"]
TEXTS = list(dict.fromkeys(phrase.replace("{}", name) for phrase, name in product(PHRASES, NAMES)))


def paths(node, tokens=()):
    """All texts of a tree, as their tokens with the end."""
    if node.whole:
        yield tokens
    for token, following in node.following.items():
        yield from paths(following, (*tokens, token))


def test_phrases_and_names_are_the_tree_of_their_texts(pipeline):
    """Also where a name goes on as a phrase does, and where one begins as a phrase begins."""
    pipe = pipeline(ImageToTextPipeline)
    end = pipe.model.vocabulary.document_end
    known = pipe.text_tokenizer, end
    trees = Choices.of_phrases(PHRASES, NAMES, *known), Choices.of_texts(TEXTS, *known)
    by_phrases, by_texts = (sorted(paths(tree.root)) for tree in trees)
    assert by_phrases == by_texts and len(by_texts) == len(TEXTS)
    assert {trees[0].read(path[:-1]) for path in by_phrases} == set(TEXTS)
    assert trees[0].longest >= trees[1].longest
    pictures = [PICTURE, torch.rand(3, 4, 6, generator=generator(5))]
    stated = {"xx": {"phrases": PHRASES, "names": NAMES}}
    assert Languages(stated).choices("xx", pipe.text_tokenizer, end).longest == trees[0].longest
    pipe.languages = Languages(stated)
    assert pipe(pictures).texts == pipe(pictures, choices=TEXTS).texts == pipe(pictures, language="xx").texts


def test_two_names_in_a_phrase_are_the_tree_of_their_texts(pipeline):
    """Also where the tokenizer joins a name with what follows it."""
    pipe = pipeline(ImageToTextPipeline)
    end, tokenizer = pipe.model.vocabulary.document_end, pipe.text_tokenizer
    names = ["seven", "a nine", "seven left", "nine"]
    phrases = ["{}", "{}, on red", "{} left of {}", "{} left of {}, on red", "{}ty{}"]
    texts = {
        phrase.replace("{}", first, 1).replace("{}", second) for phrase, first, second in product(phrases, names, names)
    }
    tree = Choices.of_phrases(phrases, names, tokenizer, end)
    found = list(paths(tree.root))
    assert sorted(tokenizer.decode(list(path[:-1])) for path in found) == sorted(texts)
    assert sorted(found) == sorted((*span.values.tolist(), end) for span in tokenizer.encode_batch(list(texts)))
    assert tree.longest == max(len(path) - 1 for path in found)


def test_a_question_stands_before_the_picture_and_chooses_the_language(pipeline):
    pipe = pipeline(ImageToTextPipeline)
    listed = {
        "xx": {"question": "what?", "phrases": PHRASES, "names": NAMES},
        "yy": {"phrases": ["{}"], "names": ["x"]},
    }
    pipe.languages = Languages(listed)
    seen = [pipe.text_tokenizer.encode("what?"), *pipe.seen([PICTURE], drawn=False)[0]]
    wanted = pipe([seen], choices=TEXTS).texts
    assert pipe(PICTURE).texts == pipe(PICTURE, language="xx").texts == pipe(PICTURE, "what?").texts == wanted
    assert pipe([PICTURE, PICTURE], ["what?", "what?"]).texts == wanted * 2
    free = pipe([seen], language="any", max_new_tokens=3).texts
    assert pipe(PICTURE, "what?", language="any", max_new_tokens=3).texts == free
    assert pipe(PICTURE, language="yy").texts == ["x"]
    with pytest.raises(InputError, match="the question asks in 'xx', got 'yy'"):
        pipe(PICTURE, "what?", language="yy")
    with pytest.raises(InputError, match="ask one and the same question of all pictures"):
        pipe([PICTURE, PICTURE], ["what?", "a "])


class Streamed(list):
    """A streamer of one's own; as yet it is an empty list."""

    def put(self, values):
        self.extend(values.flatten().tolist())

    def end(self):
        pass


def test_a_text_that_is_streamed_is_written_freely(pipeline):
    pipe, streamed = pipeline(ImageToTextPipeline), Streamed()
    free = pipe(PICTURE, max_new_tokens=4).texts
    pipe.languages = Languages({"xx": {"phrases": PHRASES, "names": NAMES}})
    assert pipe(PICTURE, max_new_tokens=4, streamer=streamed).texts == free and streamed


def test_a_tokenizer_that_joins_names_with_what_follows_lists_the_texts(pipeline):
    pipe = pipeline(ImageToTextPipeline)
    end = pipe.model.vocabulary.document_end
    tokenizer = pipe.text_tokenizer
    tree = Choices.of_phrases(["{}", "{}ty"], ["seven", "nine"], tokenizer, end)
    texts = ["seven", "seventy", "nine", "ninety"]
    encoded = sorted((*span.values.tolist(), end) for span in tokenizer.encode_batch(texts))
    assert {tree.read(path[:-1]) for path in paths(tree.root)} == set(texts)
    assert sorted(paths(tree.root)) == encoded


def test_a_saved_checkpoint_keeps_its_languages(pipeline, tmp_path):
    pipe = pipeline(ImageToTextPipeline)
    pipe.save_pretrained(tmp_path / "plain")
    stated = {"en": {"phrases": ["{}"], "names": ["seven"]}, "de": {"phrases": ["{}"], "names": ["sieben", "acht"]}}
    (tmp_path / "plain" / "model" / "answers.json").write_text(json.dumps(stated))
    (tmp_path / "plain" / "manifest.json").unlink()
    ImageToTextPipeline.from_pretrained(tmp_path / "plain").save_pretrained(tmp_path / "again")
    again = ImageToTextPipeline.from_pretrained(tmp_path / "again")
    assert again.languages.names == ["en", "de"]
    assert again(PICTURE).texts == ["seven"]
    assert again(PICTURE, language="de").texts[0] in ("sieben", "acht")
    free = pipe(PICTURE, max_new_tokens=3).texts
    assert again(PICTURE, language="any", max_new_tokens=3).texts == free
    assert again(PICTURE, stop="never", max_new_tokens=3).texts == free
    assert again(PICTURE, "a ", max_new_tokens=3).texts == pipe(PICTURE, "a ", max_new_tokens=3).texts
    with pytest.raises(InputError, match="'fr' is not known here; one of: any, de, en"):
        again(PICTURE, language="fr")
    with pytest.raises(InputError, match="a prompt is continued in its own words"):
        again(PICTURE, "a ", language="de")
    (tmp_path / "again" / "model" / "answers.json").write_text('{"en": {"phrases": ["no blank"], "names": ["a"]}}')
    (tmp_path / "again" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"answers.json: lists no phrases and names"):
        ImageToTextPipeline.from_pretrained(tmp_path / "again")(PICTURE)


def test_what_says_nothing_about_languages_refuses_them(pipeline):
    pipe = pipeline(ImageToTextPipeline)
    with pytest.raises(InputError, match="this checkpoint lists no languages, got 'en'; leave it out"):
        pipe(PICTURE, language="en")
    with pytest.raises(InputError, match="leave one of the two out"):
        pipe(PICTURE, language="en", choices=["a"])
    with pytest.raises(InputError, match="leave do_sample out"):
        pipe(PICTURE, language="en", do_sample=True)
