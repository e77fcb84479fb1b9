"""What users of diffusers and transformers do: one generator, stopping from a callback, arrays, argument names."""

import warnings

import diffusers
import numpy as np
import pytest
import torch
from tiny import generator
from tiny_pipelines import KINDS, PROMPTS

from mot_gen.errors import InputError
from mot_gen.files.image_files import load_image
from mot_gen.model import MultimodalModel
from mot_gen.packing import pack_prompts
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.pipelines.image_to_text import ImageToTextPipeline
from mot_gen.pipelines.text_generation import TextGenerationPipeline
from mot_gen.pipelines.text_to_image import TextToImagePipeline
from mot_gen.sequence import Modality, Span


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_is_one_picture(pipeline, kind):
    pipe = pipeline(TextToImagePipeline, kind)
    own = {"num_inference_steps": 3, "output_type": "latent"}
    third = pipe(PROMPTS[0], num_images_per_prompt=3, generator=[generator(s) for s in (5, 6, 7)], **own).images[2]
    for given in (generator(7), [generator(7)]):
        torch.testing.assert_close(pipe(PROMPTS[0], generator=given, **own).images[0], third)
    first = pipe(PROMPTS[0], num_images_per_prompt=3, generator=generator(7), **own).images
    torch.testing.assert_close(first[0], third)
    assert not torch.equal(first[1], first[0])


@pytest.mark.parametrize("kind", KINDS)
def test_interrupt_stops_after_the_step_and_is_forgotten(pipeline, kind):
    pipe, seen = pipeline(TextToImagePipeline, kind), []

    def stop(pipe, step, timestep, given):
        seen.append(step)
        pipe._interrupt = step == 1
        return {}

    (image,) = pipe(PROMPTS[0], num_inference_steps=4, callback_on_step_end=stop).images
    assert seen == [0, 1] and image.size == pipe(PROMPTS[0], num_inference_steps=1).images[0].size
    assert not pipe._interrupt


def test_interrupt_stops_a_text(pipeline):
    pipe = pipeline(TextGenerationPipeline)

    def after_two(ids, scores):
        pipe._interrupt = ids.shape[1] > 12
        return scores

    whole = pipe("a hand", max_new_tokens=20).texts[0]
    stopped = pipe("a hand", max_new_tokens=20, logits_processor=[after_two]).texts[0]
    assert len(stopped) < len(whole) and whole.startswith(stopped)


def test_arrays_and_batches_are_pictures(pipeline):
    pipe = pipeline(ImageToTextPipeline)
    pictures = torch.rand(2, pipe.image_tokenizer.color_channels, *pipe.image_tokenizer.size, generator=generator(0))
    want = pipe(list(pictures), max_new_tokens=4).texts
    assert pipe(pictures, max_new_tokens=4).texts == want
    assert pipe(pictures.permute(0, 2, 3, 1).numpy(), max_new_tokens=4).texts == want
    assert pipe(pipe.image_tokenizer.encode_batch(list(pictures)), max_new_tokens=4).texts == want
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (np.asarray(load_image(grey, "L")) == grey).all()
    with pytest.raises(InputError, match="an image array must be"):
        load_image(np.zeros((2, 3, 4, 5)))
    with pytest.raises(InputError, match="is a URL, and nothing is fetched; download it and give the file"):
        load_image("https://example.org/apple.png")


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (TextGenerationPipeline, "stop_strings", "say stop"),
        (TextGenerationPipeline, "max_length", "say max_new_tokens, which"),
        (TextGenerationPipeline, "num_return_sequences", "give the prompt as many times in a list"),
        (TextToImagePipeline, "num_images", "say num_images_per_prompt"),
        (TextToImagePipeline, "seed", "generator=torch.Generator"),
        (TextToImagePipeline, "stop_strings", "takes no 'stop_strings'; "),
        (TextToImagePipeline, "guidance", "did you mean 'guidance_"),
        (TextToImagePipeline, "text_inputs", "say prompt"),
        (ImageToTextPipeline, "inputs", "say image"),
    ],
)
def test_names_of_other_libraries_are_answered_with_ours(pipeline, kind, given, says):
    with pytest.raises(InputError, match=f"takes no '{given}'; .*") as refused:
        pipeline(kind)(PROMPTS[0], **{given: 1})
    assert says in str(refused.value)


def test_the_advice_on_an_empty_prompt_works(pipeline):
    pipe = pipeline(TextToImagePipeline)
    with pytest.raises(InputError, match="or guidance_scale=0"):
        pipe("")
    own = {"guidance_scale": 0.0, "num_inference_steps": 2, "output_type": "latent"}
    nothing = pipe("", generator=generator(1), **own).images
    torch.testing.assert_close(nothing, pipe(PROMPTS[0], generator=generator(1), **own).images)


def test_loading_takes_a_device_and_refuses_what_it_cannot(pipeline, tmp_path):
    pipeline(TextToImagePipeline).save_pretrained(tmp_path)
    assert TextToImagePipeline.from_pretrained(tmp_path, device_map="cpu").device.type == "cpu"
    for given, says in (
        ({"device_map": "balanced"}, "is not split over devices"),
        ({"device_map": "nowhere"}, "is no device"),
        ({"variant": "fp16"}, "has no files of it"),
    ):
        with pytest.raises(InputError, match=says):
            TextToImagePipeline.from_pretrained(tmp_path, **given)


class Elsewhere(torch.Tensor):
    """Ids as a tokenizer on another device gives them: no operation with a tensor of the CPU, until they are moved."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cpu:
            return args[0].as_subclass(torch.Tensor)
        beside = [a for group in args for a in (group if isinstance(group, (list, tuple)) else [group])]
        assert not any(type(a) is torch.Tensor and a.dim() for a in beside), "two devices in one operation"
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("discrete", [True, False])
def test_what_a_tokenizer_on_a_device_made_is_packed_on_the_cpu(discrete):
    text = Modality("text", vocab_size=20)
    media = Modality("image", vocab_size=9) if discrete else Modality("image", channels=3)
    values = torch.arange(4) if discrete else torch.rand(4, 3, generator=generator(0))
    documents = [[Span("image", kind, (2, 2)), Span("text", torch.tensor([3, 4]))] for kind in (
        values, values.as_subclass(Elsewhere))]  # fmt: skip
    here, there = (pack_prompts([document], [text, media])[0] for document in documents)
    assert torch.equal(here.ids, there.ids) and type(there.ids) is torch.Tensor
    if not discrete:
        assert torch.equal(here.latents["image"].values, there.latents["image"].values)


def test_image_to_image_takes_arrays(pipeline):
    pipe = pipeline(ImageToImagePipeline)
    picture = np.zeros((*pipe.image_tokenizer.size, pipe.image_tokenizer.color_channels), dtype=np.uint8)
    assert len(pipe(PROMPTS[0], picture, num_inference_steps=1).images) == 1


def test_the_checkpoints_own_sampling_goes_along(pipeline):
    """Into a pipeline of another task, and one by `from_pipe`: they draw and write as the checkpoint recommends."""
    sampling = {"num_inference_steps": 2, "guidance_scale": 2.0, "max_new_tokens": 3}
    draw = pipeline(TextToImagePipeline, sampling=sampling)
    want = draw(PROMPTS[0], generator=generator(1), output_type="latent").images
    for again in (TextToImagePipeline(**draw.components), TextToImagePipeline.from_pipe(draw)):
        again.set_progress_bar_config(disable=True)
        assert torch.equal(again(PROMPTS[0], generator=generator(1), output_type="latent").images, want)
    read = ImageToTextPipeline.from_pipe(draw)
    assert read.model is draw.model and read.image_tokenizer is draw.image_tokenizer
    picture = torch.rand(3, *draw.image_tokenizer.size, generator=generator(0))
    assert read(picture).texts == read(picture, max_new_tokens=3).texts


def test_a_dtype_is_one_of_torch_or_its_name(pipeline, tmp_path):
    pipeline(TextToImagePipeline).save_pretrained(tmp_path)
    for given in ({"dtype": "bfloat16"}, {"dtype": torch.bfloat16}):
        assert TextToImagePipeline.from_pretrained(tmp_path, **given).dtype == torch.bfloat16
        assert MultimodalModel.from_pretrained(tmp_path, **given).dtype == torch.bfloat16
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        TextToImagePipeline.from_pretrained(tmp_path, dtype="float16")
    assert sum("a CPU computes slowly in float16" in str(each.message) for each in said) <= 1
    for name in ("bf17", "int64", "nn", 16):
        with pytest.raises(InputError, match="is no dtype of weights; give one"):
            TextToImagePipeline.from_pretrained(tmp_path, dtype=name)


def test_what_cannot_be_drawn_is_named_as_it_was_given(pipeline):
    pipe = pipeline(TextToImagePipeline)
    for given, says in (
        ({"height": 0}, "height must be a positive number of pixels, got 0"),
        ({"width": "6"}, "width must be a positive number of pixels, got '6'"),
        ({"latents": np.zeros((1, 6, 12), np.float32)}, "latents must be a tensor of floats, got ndarray"),
    ):
        with pytest.raises(InputError, match=says):
            pipe(PROMPTS[0], **given)
    alone = TextToImagePipeline(**pipe.components | {"image_tokenizer": None})
    with pytest.raises(InputError, match="TextToImagePipeline has no image_tokenizer; give it one"):
        alone(PROMPTS[0])


def test_a_solver_of_diffusion_is_told_to_follow_a_flow(pipeline):
    """The advice that a plain `from_config` gets is what makes it draw."""
    pipe = pipeline(TextToImagePipeline)
    euler, kind = pipe.scheduler, diffusers.DPMSolverMultistepScheduler
    own = {"num_inference_steps": 40, "output_type": "latent"}
    want = pipe(PROMPTS[0], generator=generator(1), **own).images
    pipe.scheduler = kind.from_config(euler.config)
    with pytest.raises(InputError, match="prediction_type='flow_prediction', use_flow_sigmas=True"):
        pipe(PROMPTS[0], **own)
    pipe.scheduler = kind.from_config(euler.config, prediction_type="flow_prediction", use_flow_sigmas=True)
    found = pipe(PROMPTS[0], generator=generator(1), **own).images
    assert (found - want).square().mean().sqrt() < 0.1 * want.std()
    pipe.scheduler = type(euler)(use_dynamic_shifting=True)
    with pytest.raises(InputError, match="use it with use_dynamic_shifting=False"):
        pipe(PROMPTS[0], **own)


def test_texts_are_encoded_one_by_one_or_as_a_list(pipeline):
    tokenizer = pipeline(TextGenerationPipeline).text_tokenizer
    for given in (["a"], None):
        with pytest.raises(InputError, match="a text must be a str; encode_batch takes lists"):
            tokenizer.encode(given)


def test_a_picture_is_decoded_from_its_span(pipeline):
    tokenizer = pipeline(TextToImagePipeline).image_tokenizer
    span = tokenizer.encode(torch.rand(3, *tokenizer.size, generator=generator(0)))
    with pytest.raises(InputError, match=r"image: decode takes a Span, as encode gives, or Span\('image', values\)"):
        tokenizer.decode(span.values)
    assert torch.equal(tokenizer.decode(Span("image", span.values)), tokenizer.decode(span))
