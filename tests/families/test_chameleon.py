"""Chameleon against transformers' own, on tiny random models, with norms before (7B) and after (30B)."""

import numpy as np
import pytest
import torch
import transformers
from comparing import Noted, converted, far, over, picture_of

from mot_gen.errors import InputError
from mot_gen.families import chameleon
from mot_gen.packing import document_length, pack
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Span

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
    bytes_of = torch.from_numpy(np.array(picture())).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        return theirs.model.get_image_tokens(bytes_of * chameleon.RESCALE - 1)[0].long()


def batch_of(pipe):
    """A document of text, picture and text; its ids."""
    words = pipe.text_tokenizer.encode("a cat ").values, pipe.text_tokenizer.encode("sleeps").values
    sample = [Span("text", words[0]), pipe.image_tokenizer.encode(picture()), Span("text", words[1])]
    return pack([sample], pipe.model.modalities, document_length(sample, pipe.model.modalities))


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
    question = pipe.text_tokenizer.encode("what?").values.tolist()
    prompt = [0, begin, *theirs_see(theirs).tolist(), end, *question, pipe.text_tokenizer.specials["<reserved08706>"]]
    ids = torch.tensor([prompt])
    writable = pipe.model.vocabulary.writable("text")
    writable[pipe.model.vocabulary.document_end] = True
    for scores in note:
        logits = theirs.lm_head(theirs.model(ids).last_hidden_state[:, -1])
        assert far(scores, logits[0]) < 1e-5
        ids = torch.cat([ids, logits.masked_fill(~writable, -torch.inf).argmax(-1, keepdim=True)], 1)


@torch.no_grad()
def test_the_ids_of_a_picture_are_written_with_guidance(models):
    theirs, pipe = models[False]
    made = over(pipe, TextToImagePipeline, chat=False)
    (found,) = made("a cat", guidance_scale=3.0, temperature=0.0, output_type="latent").images
    begin, words = pipe.model.vocabulary.begin["image"], pipe.text_tokenizer.encode("a cat").values.tolist()
    rows = [[0, *words, begin], [0, begin]]
    first, last = pipe.model.vocabulary.range("image")
    for id in found.tolist():
        both = [theirs.lm_head(theirs.model(torch.tensor([row])).last_hidden_state[0, -1]) for row in rows]
        assert (both[1] + 3 * (both[0] - both[1]))[first:last].argmax() == id
        rows = [[*row, id + first] for row in rows]
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
