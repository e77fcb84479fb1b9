"""ImageToImagePipeline: editing by full passes, noise strength, masks that keep what is outside, bad inputs."""

import diffusers
import pytest
import torch
from PIL import Image
from tiny import generator
from tiny_pipelines import CLOSE, KINDS, every_scheduler

from mot_gen.errors import InputError
from mot_gen.packing import pack_rows
from mot_gen.pipelines.engine.guidance import Guidance
from mot_gen.pipelines.engine.samplers import Schedule, integrate
from mot_gen.pipelines.image_to_image import ImageToImagePipeline
from mot_gen.sequence import Span

PICTURES = [torch.rand(3, 4, 6, generator=generator(s)) for s in (0, 1)]
MASK = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6, [0] * 6]).float()[None]  # in one 2 x 2 patch


def encoded(pipe, pictures=PICTURES):
    return torch.stack([span.values for span in pipe.image_tokenizer.encode_batch(pictures)])


@pytest.fixture
def drawn(pipeline):
    """objective, scheduler, options -> the pipeline and its latents."""

    def make(objective="flow", scheduler="FlowMatchEulerDiscreteScheduler", **options):
        pipe = pipeline(ImageToImagePipeline, objective=objective)
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
        given = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "latent", "generator": generator(5)}
        return pipe, pipe("a seven", PICTURES, **given | options).images

    return make


@torch.no_grad()
def test_editing_is_drawing_after_the_picture_and_the_instruction(pipeline, noise):
    """Both guidances, in one pass over one cache, against full passes of each branch."""
    pipe, guidance = pipeline(ImageToImagePipeline), Guidance(3.0, image_scale=1.5)
    images, text = pipe.image_tokenizer.encode_batch(PICTURES), pipe.text_tokenizer.encode("make it a nine")
    documents = {
        "conditional": [[image, text] for image in images],
        "unconditional": [[image] for image in images],
        "without_image": [[text], [text]],
    }
    owned = pipe.model.objectives["image"]

    def predict(x, timestep):
        time = owned.scheduler_time(timestep, pipe.scheduler)
        outputs = [last_prediction(pipe.model, documents[name], x, time) for name in guidance.branches]
        return guidance.combine(torch.cat(outputs))

    want = integrate(predict, noise, Schedule(pipe.scheduler, 3))
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "image_guidance_scale": 1.5, "output_type": "latent"}
    got = pipe("make it a nine", PICTURES, latents=noise, **options).images
    torch.testing.assert_close(got, want, **CLOSE)


def last_prediction(model, documents, x, time):
    """The network's output for pictures x that end documents, whose own pictures are clean, without a cache."""
    rows = [[[*document, Span("image", values, (2, 3))]] for document, values in zip(documents, x)]
    batch = pack_rows(rows, model.modalities, 60)
    latents = batch.latents["image"]
    pictures = [sum(span.modality == "image" for span in row[0]) for row in rows]
    last = torch.tensor(pictures).cumsum(0) - 1
    latents.time = torch.zeros(len(latents.grids)).index_fill(0, last, float(time))
    output = model(batch).latents["image"]
    return torch.stack([output[latents.span == number] for number in last])


@every_scheduler
def test_strength_is_how_far_from_the_picture_one_goes(drawn, objective, scheduler):
    pipe, unchanged = drawn(objective, scheduler, strength=0.0)
    assert torch.equal(unchanged, encoded(pipe))
    far = [(drawn(objective, scheduler, strength=s)[1] - unchanged).square().mean().item() for s in (0.25, 1.0)]
    assert 0 < far[0] < far[1]


@every_scheduler
def test_a_mask_keeps_what_is_outside_exactly(drawn, objective, scheduler):
    pipe, made = drawn(objective, scheduler, mask_image=MASK, strength=0.75)
    same = (made == encoded(pipe)).all(-1)
    assert same.tolist() == [[True, False, True, True, True, True]] * 2


def test_pixels_outside_of_a_mask_are_those_of_the_picture(drawn):
    _, made = drawn(mask_image=[MASK, 1 - MASK], output_type="pt")
    for picture, mask, got in zip(PICTURES, (MASK, 1 - MASK), made):
        outside = mask.expand(3, -1, -1) == 0
        assert torch.equal(got[outside], picture[outside]) and not torch.equal(got[~outside], picture[~outside])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"strength": 0.6}, {"mask_image": True}], ids=["edit", "vary", "inpaint"])
def test_a_picture_does_not_depend_on_its_batch(pipeline, kind, options):
    pipe = pipeline(ImageToImagePipeline, kind, context=256)
    if kind.startswith("VQ") and "strength" in options:
        with pytest.raises(InputError, match="strength: this checkpoint's pictures are discrete tokens"):
            pipe("a seven", Image.new("RGB", (8, 8)), **options)
        return
    height, width = pipe.image_tokenizer.config.image_size
    pictures = [torch.rand(3, height, width, generator=generator(s)) for s in (0, 1)]
    if "mask_image" in options:
        mask = torch.zeros(1, height, width)
        mask[:, : height // 2] = 1
        options = {"mask_image": mask}
    options = options | {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "pt"}
    prompts = ["a seven", "a handwritten nine and a seven"]
    both = pipe(prompts, pictures, generator=[generator(1), generator(2)], **options).images
    for number, (prompt, picture) in enumerate(zip(prompts, pictures)):
        alone = pipe(prompt, picture, generator=[generator(number + 1)], **options).images
        torch.testing.assert_close(alone[0], both[number], **CLOSE)
    assert torch.equal(pipe(prompts, pictures, generator=[generator(1), generator(2)], **options).images, both)


def test_discrete_tokens_outside_of_a_mask_stay(pipeline):
    pipe = pipeline(ImageToImagePipeline, "VQImageTokenizer")
    height, width = pipe.image_tokenizer.config.image_size
    picture, mask = torch.rand(3, height, width, generator=generator(0)), torch.zeros(1, height, width)
    mask[:, :, : width // pipe.image_tokenizer.grid[1]] = 1  # the first column of tokens
    options = {"temperature": 8.0, "guidance_scale": 2.0, "output_type": "latent", "num_images_per_prompt": 4}
    made = pipe("a seven", picture, mask_image=mask, generator=generator(0), **options).images
    shape = (4, *pipe.image_tokenizer.grid)
    same = (made == pipe.image_tokenizer.encode(picture).values).view(shape)
    assert same[:, :, 1:].all() and not same[:, :, 0].all()


def test_without_a_prompt_there_is_nothing_to_guide(pipeline, noise):
    pipe = pipeline(ImageToImagePipeline)
    options = {"image": PICTURES, "latents": noise, "num_inference_steps": 2, "output_type": "latent"}
    assert torch.equal(pipe(guidance_scale=9.0, **options).images, pipe(guidance_scale=1.0, **options).images)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ({"image": None}, "image: none was given"),
        ({"image": []}, "image: none was given"),
        ({"image": b"no picture"}, "image of 10 bytes"),
        ({"prompt": ["a", "b"], "image": PICTURES + PICTURES[:1]}, "2 texts were given for 3 pictures"),
        ({"mask_image": torch.zeros(1, 4, 5)}, "mask_image: 4 x 5 for a picture of 4 x 6; make them one size"),
        ({"mask_image": Image.new("L", (12, 8))}, "mask_image: 8 x 12 for a picture of 4 x 6"),
        ({"mask_image": [MASK] * 3}, "mask_image: 3 masks were given for 1 pictures"),
        ({"mask_image": 0 * MASK}, "mask_image: is black all over"),
        ({"strength": 1.2}, "strength must be a number from 0"),
        ({"strength": float("nan")}, "strength must be"),
        ({"strength": 0.1, "num_inference_steps": 3}, "strength: 0.1 of 3 steps is no step"),
        ({"strength": 0.5, "image_guidance_scale": 1.5}, "say condition_on_image=True"),
        ({"image_guidance_scale": -2.0}, "image_guidance_scale must be a number of at least 0"),
        ({"prompt": ""}, "prompt is empty"),
        ({"latents": torch.zeros(1, 2, 3)}, r"latents must be of shape \(1, 6, 12\)"),
        (
            {"callback_on_step_end_tensor_inputs": ["x"]},
            "callback_on_step_end_tensor_inputs: 'x' is not one of latents",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_requests_are_refused_before_any_work(idle, arguments, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        idle(ImageToImagePipeline)(**{"prompt": "nine", "image": PICTURES[0]} | arguments)
    assert "\n" not in str(error.value)
