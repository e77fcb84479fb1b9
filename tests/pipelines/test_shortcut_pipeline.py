"""Pictures in one and two evaluations: the calls of the model, what it is told, what is refused, save and load."""

import pytest
import torch
from tiny import generator
from tiny_pipelines import build

from mot_gen.errors import InputError
from mot_gen.objectives.even_steps import EvenStepsScheduler
from mot_gen.pipelines.about import describe
from mot_gen.pipelines.text_to_image import TextToImagePipeline


@pytest.fixture(scope="module")
def pipe():
    made = TextToImagePipeline(**build(objective="shortcut"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("count, sizes", [(1, [1.0]), (2, [0.5, 0.5]), (4, [0.25] * 4), (40, [0.0] * 40)])
def test_the_model_is_called_once_a_step_and_told_its_size(pipe, monkeypatch, count, sizes):
    from mot_gen.pipelines.engine.open_span import OpenSpan

    told, real = [], OpenSpan.__call__

    def noted(span, values, time, step, embedded):
        told.append(step.item())
        return real(span, values, time, step, embedded)

    monkeypatch.setattr(OpenSpan, "__call__", noted)
    images = pipe("seven", num_inference_steps=count, generator=generator(0), output_type="pt").images
    assert images.shape[0] == 1 and told == sizes


def test_the_size_of_the_step_has_its_say(pipe):
    drawn = {
        n: pipe("nine", num_inference_steps=n, generator=generator(0), output_type="latent").images for n in (1, 2)
    }
    assert not torch.allclose(drawn[1], drawn[2])


def test_a_picture_does_not_depend_on_its_batch(pipe):
    generators = [generator(s) for s in (3, 4)]
    both = pipe(["seven", "a nine"], num_inference_steps=2, generator=generators, output_type="pt").images
    alone = pipe("a nine", num_inference_steps=2, generator=[generator(4)], output_type="pt").images
    torch.testing.assert_close(both[1], alone[0], atol=1e-5, rtol=0)


def test_fewer_evaluations_than_were_trained_are_refused():
    parts = build(objective="shortcut")
    object.__setattr__(parts["model"].objectives["image"], "fewest", 4)
    pipe = TextToImagePipeline(**parts)
    with pytest.raises(InputError, match="num_inference_steps: this checkpoint was trained for at least 4, got 2"):
        pipe("seven", num_inference_steps=2)
    assert len(pipe("seven", num_inference_steps=4).images) == 1


def test_a_saved_pipeline_draws_the_same_and_says_its_evaluations(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = TextToImagePipeline.from_pretrained(tmp_path)
    assert isinstance(again.scheduler, EvenStepsScheduler)
    first, second = (
        p("seven", num_inference_steps=2, generator=generator(1), output_type="pt").images for p in (pipe, again)
    )
    assert torch.equal(first, second)
    assert describe(tmp_path)["evaluations"] == "image: 1 or more"
