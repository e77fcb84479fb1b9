"""Fixtures: pipelines over components that are built once."""

from functools import cache

import pytest
import torch
from tiny import generator
from tiny_pipelines import build


@pytest.fixture(scope="session")
def components():
    return cache(build)


@pytest.fixture
def pipeline(components):
    """cls, kind, objective, context -> a quiet pipeline."""

    def make(cls, kind="PatchImageTokenizer", objective="flow", context=128, **changed):
        pipe = cls(**components(kind, objective, context) | changed)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture
def idle(pipeline, monkeypatch):
    """A pipeline whose backbone fails the test when it is called."""

    def make(cls, **changed):
        pipe = pipeline(cls, **changed)
        monkeypatch.setattr(pipe.model.backbone, "forward", lambda *_: pytest.fail("work was done before the check"))
        return pipe

    return make


@pytest.fixture
def noise():
    """Two fixed pictures' worth of noise for the patches of a 4 x 6 image."""
    return torch.randn(2, 6, 12, generator=generator(3))
