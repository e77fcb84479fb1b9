"""Chameleon against transformers' own, on tiny random models, with norms before (7B) and after (30B)."""

import pytest
import torch
import transformers
from comparing import (
    Noted,
    check_greedy_text,
    check_guided_ids,
    converted,
    far,
    ids_of,
    over,
    packed,
    picture_of,
    standardised,
    words_of,
)

from mot_gen.errors import InputError
from mot_gen.families import chameleon
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline

SIZES = [False, True]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By swin_norm: the published model, and the converted one's pipeline."""
    found = {}
    for swin in SIZES:
        folder = tmp_path_factory.mktemp("chameleon")
        chameleon.tiny(folder / "published", swin)
        theirs = transformers.ChameleonForConditionalGeneration.from_pretrained(folder / "published").eval()
        found[swin] = theirs, converted(folder / "published", folder / "ours")
    return found


def picture():
    return picture_of(8, 8)


def theirs_see(theirs):
    """The published ids of the picture."""
    bytes_of = standardised(picture(), 0.0, 1 / 255)
    with torch.no_grad():
        return theirs.model.get_image_tokens(bytes_of * chameleon.RESCALE - 1)[0].long()


def batch_of(pipe):
    """A document of text, picture and text."""
    return packed(pipe, words_of(pipe, "a cat "), pipe.image_tokenizer.encode(picture()), words_of(pipe, "sleeps"))


def hidden_of(pipe, batch):
    return pipe.model.backbone(pipe.model.embed(batch)[0], batch.layout)[0]


@pytest.mark.parametrize("swin", SIZES)
@torch.no_grad()
def test_ids_hidden_states_and_the_loss_are_the_published_ones(models, swin):
    theirs, pipe = models[swin]
    batch, targets = pipe.model.corrupt(batch_of(pipe))
    seen = theirs_see(theirs)
    place = (batch.ids[0] == pipe.model.vocabulary.begin["image"]).nonzero().item() + 1
    assert torch.equal(batch.ids[0, place : place + 16], seen)
    want = theirs.model(batch.ids).last_hidden_state
    assert far(hidden_of(pipe, batch), want[0]) < 1e-5
    logits = theirs.lm_head(want)[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], batch.ids[0, 1:], reduction="none")
    losses, masks = pipe.model.losses(batch, pipe.model(batch), targets), pipe.model.loss_masks(batch)
    assert far(losses["text"], expected[batch.target_slots]) < 1e-5  # one softmax is over texts and pictures
    assert (masks["text"] + masks["image"] == 1).all() and masks["image"].sum() == 16


@pytest.mark.parametrize("swin", SIZES)
@torch.no_grad()
def test_a_question_about_a_picture_is_answered_as_published(models, swin):
    theirs, pipe = models[swin]
    note = Noted()
    made = over(pipe, ImageToTextPipeline)
    made(picture(), "what?", max_new_tokens=6, logits_processor=[note])
    begin, end = (pipe.model.vocabulary.begin["image"], pipe.model.vocabulary.end["image"])
    question = [*ids_of(pipe, "what?"), pipe.text_tokenizer.specials["<reserved08706>"]]
    ids = torch.tensor([[0, begin, *theirs_see(theirs).tolist(), end, *question]])
    check_greedy_text(pipe, note, ids, lambda ids: next_logits(theirs, ids))


def next_logits(theirs, ids):
    """(1, n) -> (1, V): of what follows."""
    return theirs.lm_head(theirs.model(ids).last_hidden_state[:, -1])


@torch.no_grad()
def test_the_ids_of_a_picture_are_written_with_guidance(models):
    theirs, pipe = models[False]
    made = over(pipe, TextToImagePipeline, chat=False)
    (found,) = made("a cat", guidance_scale=3.0, temperature=0.0, output_type="latent").images
    begin = pipe.model.vocabulary.begin["image"]
    rows = [[0, *ids_of(pipe, "a cat"), begin], [0, begin]]
    check_guided_ids(pipe, found, rows, lambda row: next_logits(theirs, torch.tensor([row]))[0])
    assert not made.image_tokenizer.decodes
    with pytest.raises(InputError, match="only reads pictures, and none can be made of its ids"):
        made("a cat")


def without_biases(model):
    for block in model.backbone.blocks:
        block.q_norm.bias.zero_()


def one_weight_for_all_heads(model):
    for block in model.backbone.blocks:
        block.k_norm.weight.copy_(block.k_norm.weight.mean(1, keepdim=True).expand_as(block.k_norm.weight))


@pytest.mark.parametrize("left_out", [without_biases, one_weight_for_all_heads])
@torch.no_grad()
def test_what_is_left_out_of_the_norms_shows(models, left_out):
    theirs, pipe = models[False]
    batch = batch_of(pipe)
    kept = {name: value.clone() for name, value in pipe.model.state_dict().items()}
    left_out(pipe.model)
    apart = far(hidden_of(pipe, batch), theirs.model(batch.ids).last_hidden_state[0])
    pipe.model.load_state_dict(kept)
    assert apart > 0.02


@torch.no_grad()
def test_norms_at_the_other_place_show(models):
    (theirs, _), (_, other) = models[True], models[False]
    batch = batch_of(other)
    assert far(hidden_of(other, batch), theirs.model(batch.ids).last_hidden_state[0]) > 0.1
