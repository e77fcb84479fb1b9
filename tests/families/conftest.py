"""A tiny published model and ours, of a test file that names its family: folder, theirs, pipe.

Such a file states FAMILY, the module of mot_gen/families, and THEIRS, the class of transformers."""

import pytest
from comparing import converted


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """Where the published model is in published/, and ours in ours/."""
    found = tmp_path_factory.mktemp("family")
    request.module.FAMILY.tiny(found / "published")
    return found


@pytest.fixture(scope="module")
def theirs(request, folder):
    """The published model, of transformers."""
    return request.module.THEIRS.from_pretrained(folder / "published").eval()


@pytest.fixture(scope="module")
def pipe(folder):
    """The pipeline of ours, through the command."""
    return converted(folder / "published", folder / "ours")
