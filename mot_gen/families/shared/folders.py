"""Where the files of a published model are: local_folder."""

from __future__ import annotations

from pathlib import Path

from mot_gen.errors import InputError


def local_folder(name: str | Path, local_files_only: bool = True) -> Path:
    """The folder itself, or where the files of a hub name are. Only safetensors: a pickle may execute code."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    try:
        return Path(snapshot_download(str(name), local_files_only=local_files_only, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        reason = "say --download to fetch it" if local_files_only else str(error).splitlines()[0]
        raise InputError(f"{name}: no such folder, and none of this name was fetched from the hub; {reason}") from error
