"""Images against texts: CLIP scores with a tiny CLIP, R-precision, GenEval's rules, rendered text."""

import json

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from mot_gen.errors import InputError
from mot_gen.eval.images.backbones import transformers_extractor
from mot_gen.eval.images.clip import ClipEncoder, CLIPScore, RefCLIPScore, RPrecision, cosines
from mot_gen.eval.images.evaluate_texts import evaluate_image_text, image_text_metrics
from mot_gen.eval.images.geneval import GenEval, is_correct, relations
from mot_gen.eval.images.ocr import OcrAccuracy
from mot_gen.eval.images.preference import PreferenceScore

LETTERS = "abcdefghijklmnopqrstuvwxyz "


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A random CLIP of 77 tokens with a letter tokenizer, saved as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("tiny-clip")
    vocabulary = {letter: i for i, letter in enumerate([*LETTERS, "A", "<bos>", "<eos>", "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
    )
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    eos = {
        "eos_token_id": vocabulary["<eos>"],
        "bos_token_id": vocabulary["<bos>"],
        "pad_token_id": vocabulary["<eos>"],
    }
    text = CLIPTextConfig(vocab_size=len(vocabulary), max_position_embeddings=77, **eos, **size)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **size)
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    facts = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**facts, "image_mean": [0.5] * 3, "image_std": [0.2] * 3})
    )
    return folder


def fed(metric, *columns):
    metric.update(*columns)
    return metric.compute()


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_clip_scores_by_their_formulas():
    images, texts, references = randn(6, 8), randn(6, 8) + 0.5, randn(6, 3, 8)
    score = 2.5 * torch.cosine_similarity(images, texts).clamp(min=0)
    assert fed(CLIPScore(), images, texts).value == pytest.approx(score.mean().item())
    near = torch.cosine_similarity(texts[:, None], references, dim=-1).amax(1).clamp(min=0)
    harmonic = torch.where(score + near > 0, 2 * score * near / (score + near), torch.zeros(6))
    assert fed(RefCLIPScore(), images, texts, references).value == pytest.approx(harmonic.mean().item())


def test_images_and_texts_are_encoded_as_transformers_does(clip_folder):
    encoder = ClipEncoder(clip_folder, prefix="")
    texts = ["a red cat", "two dogs on a hill"]
    tokens = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = encoder.model(**tokens, pixel_values=((torch.full((2, 3, 32, 32), 128 / 255) - 0.5) / 0.2))
    found = fed(CLIPScore(encoder), torch.full((2, 3, 32, 32), 128, dtype=torch.uint8), texts)
    expected = 2.5 * cosines(output.image_embeds, output.text_embeds).clamp(min=0).mean().item()
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert "extractor:tiny-clip" in found.signature and "sha256:" in found.signature


@pytest.mark.parametrize("size", [(100, 400), (400, 101), (31, 33), (32, 32), (3, 7)])
def test_pictures_of_any_shape_go_in_as_clips_processor_has_them(clip_folder, size):
    """Against PIL's version of the processor, which shares no resizing with the one in use."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    encoder = ClipEncoder(clip_folder, prefix="")
    g = torch.Generator().manual_seed(size[0])
    coarse = torch.randint(0, 256, (1, 3, 5, 5), generator=g).float()
    picture = torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].to(torch.uint8)
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    pixels = processor(picture, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    tokens = encoder.tokenizer(["a red cat"], return_tensors="pt")
    with torch.no_grad():
        output = encoder.model(**tokens, pixel_values=pixels)
    expected = 2.5 * cosines(output.image_embeds, output.text_embeds).clamp(min=0).item()
    found = fed(CLIPScore(encoder), picture[None], ["a red cat"])
    assert found.value == pytest.approx(expected, abs=1e-4)
    assert "resize:shortest-32-crop-32" in found.signature


def test_beyond_77_tokens_the_end_token_stays(clip_folder):
    encoder = ClipEncoder(clip_folder, prefix="")
    long = "a cat " * 40
    kept, cut = encoder.texts([long])
    exact, none = encoder.texts([long[:75]])
    assert (cut, none) == (1, 0)
    assert torch.allclose(kept, exact, atol=1e-6)
    found = fed(CLIPScore(encoder), torch.rand(1, 3, 32, 32), [long])
    assert "1 texts exceed" in found.warnings[0]


def test_padding_changes_no_embedding(clip_folder):
    encoder = ClipEncoder(clip_folder)
    alone, _ = encoder.texts(["a cat"])
    beside, _ = encoder.texts(["a cat", "a much longer text about a dog"])
    assert torch.allclose(alone[0], beside[0], atol=1e-6)


def test_ref_clip_score_takes_lists_of_unequal_length(clip_folder):
    encoder = ClipEncoder(clip_folder)
    images, texts = torch.rand(2, 3, 32, 32), ["a cat", "a dog"]
    together = RefCLIPScore(encoder)
    together.update(images, texts, [["a cat"], ["a hill", "the dog", "no"]])
    apart = RefCLIPScore(encoder)
    apart.update(images[:1], texts[:1], [["a cat"]])
    apart.update(images[1:], texts[1:], [["a hill", "the dog", "no"]])
    assert together.compute().value == pytest.approx(apart.compute().value, rel=1e-6)


def test_vision_tower_of_a_folder_is_an_extractor(clip_folder):
    extractor = transformers_extractor(clip_folder, resize="crop")
    encoder = ClipEncoder(clip_folder)
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    assert torch.allclose(extractor(images), encoder.images(images), atol=1e-5)
    assert extractor.provenance()["resize"] == "crop-32"
    assert transformers_extractor(clip_folder).provenance()["resize"] == "clean-32"


@pytest.mark.parametrize("kind", ["pickscore", "hpsv2"])
def test_preference_scores_are_the_models_logits_or_cosines(clip_folder, kind):
    images, texts = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), ["a cat", "a dog on a hill"]
    metric = PreferenceScore(kind, clip_folder)
    encoder = metric.encoder
    tokens = encoder.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = encoder.model(**tokens, pixel_values=((images / 255) - 0.5) / 0.2)
    logits = output.logits_per_image.diagonal().double()
    expected = logits if kind == "pickscore" else logits / encoder.model.logit_scale.detach().exp()
    metric.update(images, texts)
    assert metric.segment_scores() == pytest.approx(expected.tolist(), rel=1e-5)
    assert metric.compute().name == kind and "prefix" not in metric.compute().signature


def test_pictures_of_a_folder_are_read_as_stored_where_that_is_asked_for(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")

    def black(image, question, words):
        return [1 - image.double().mean().item() / 255]

    found = [evaluate_image_text(tmp_path, ["a"], "vqa", vqa=black, as_stored=each)["vqa"] for each in (False, True)]
    assert [each.value for each in found] == [0, 1] and "pictures:as-stored" in found[1].signature


def test_every_model_goes_to_the_device(clip_folder):
    built = image_text_metrics(
        "clip,pickscore,hpsv2", "meta", dict.fromkeys(("clip", "pickscore", "hpsv2"), clip_folder)
    )
    assert {metric.encoder.device.type for metric in built.values()} == {"meta"}


def test_r_precision_counts_own_text_first_and_shares_ties():
    images = torch.eye(3, dtype=torch.float64)
    own = torch.stack([torch.eye(3).roll(i, 0) for i in range(3)]).double()
    candidates = torch.stack([own[i][[i - i, 1, 2]] for i in range(3)])
    expected = [float(torch.equal(candidates[i, 0], images[i])) for i in range(3)]
    assert fed(RPrecision(), images, candidates).value == pytest.approx(sum(expected) / 3)
    tied = torch.ones(1, 4, 3, dtype=torch.float64)
    assert fed(RPrecision(), images[:1], tied).value == 0.25


def test_clip_score_without_a_model_is_refused():
    with pytest.raises(InputError, match="folder of a CLIP"):
        CLIPScore().update(torch.rand(1, 3, 8, 8), ["a"])


def box(x, y, size=10):
    return [x, y, x + size, y + size]


def seen(name, x=0, y=0, score=0.95, **more):
    return {"class": name, "score": score, "box": box(x, y), **more}


@pytest.mark.parametrize(
    ("tag", "include", "exclude", "detections", "correct"),
    [
        ("single_object", [{"class": "dog", "count": 1}], [], [seen("dog")], True),
        ("single_object", [{"class": "dog", "count": 1}], [], [seen("dog", score=0.2)], False),
        ("counting", [{"class": "dog", "count": 2}], [{"class": "dog", "count": 3}], [seen("dog")] * 2, True),
        ("counting", [{"class": "dog", "count": 2}], [{"class": "dog", "count": 3}], [seen("dog")] * 3, False),
        ("counting", [{"class": "dog", "count": 1}], [], [seen("dog", score=0.8)], False),
        ("colors", [{"class": "car", "count": 1, "color": "red"}], [], [seen("car", color="red")], True),
        ("colors", [{"class": "car", "count": 1, "color": "red"}], [], [seen("car", color="blue")], False),
        (
            "position",
            [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
            [],
            [seen("cat", 50), seen("dog", 0)],
            True,
        ),
        (
            "position",
            [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}],
            [],
            [seen("cat", 50), seen("dog", 0)],
            False,
        ),
    ],
)
def test_geneval_judges_by_its_rules(tag, include, exclude, detections, correct):
    record = {"tag": tag, "include": include, "exclude": exclude, "detections": detections}
    assert is_correct(record) is correct


def test_relations_need_a_margin_and_may_be_two():
    assert relations(box(0, 0), box(30, 0)) == {"left of"}
    assert relations(box(0, 30), box(0, 0)) == {"below"}
    assert relations(box(0, 0), box(1, 0)) == set()
    assert relations(box(40, 40), box(0, 0)) == {"right of", "below"}


def test_geneval_is_the_mean_over_tags_not_over_images():
    one = {"include": [{"class": "dog", "count": 1}]}
    right = {**one, "tag": "single_object", "detections": [seen("dog")]}
    wrong = {**one, "tag": "two_object", "detections": []}
    found = fed(GenEval(detector="mask2former"), [right, right, right, wrong])
    assert found["geneval"].value == 0.5 and found["geneval_single_object"].value == 1.0
    assert "no images of: counting" in found["geneval"].warnings[0] and "mask2former" in found["geneval"].signature
    with pytest.raises(InputError, match="record 0: lacks detections"):
        GenEval().update([{**one, "tag": "counting"}])


def test_rendered_text_is_compared_without_case_and_spacing():
    found = fed(OcrAccuracy(), ["HELLO  World", "", "abcx"], ["hello world", "text", "abcd"])
    assert found.value == pytest.approx((1 + 0 + 0.75) / 3) and found.details["exact"] == pytest.approx(1 / 3)
    metric = OcrAccuracy(read=lambda image: f"{image.shape[1]}", engine="height")
    assert fed(metric, torch.zeros(1, 3, 24, 8), ["24"]).value == 1
