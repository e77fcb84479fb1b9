"""Hub names are taken where they were fetched before, and nothing else that is not there."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from mot_gen.errors import InputError
from mot_gen.files.hub import require_local, was_fetched


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    (tmp_path / "models--owner--fetched").mkdir()
    (tmp_path / "models--alone").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", ["owner/fetched", "alone", "."])
def test_what_is_there_or_was_fetched_is_taken(name):
    assert Path(name).exists() or was_fetched(name)
    require_local("path", name)  # raises nothing


@pytest.mark.parametrize("name", ["owner/mistyped", "mistyped", "owner/fetched2"])
def test_a_hub_name_that_was_not_fetched_says_how_to(name):
    with pytest.raises(InputError, match=f"^path: {name}: no such folder, .* hf download {name}$"):
        require_local("path", name)


@pytest.mark.parametrize("name", ["/no/such", "a/b/c", "./mistyped"])
def test_a_path_that_is_no_hub_name_is_not_looked_for_there(name):
    with pytest.raises(InputError, match="no such folder; give that of a saved one"):
        require_local("path", name)
