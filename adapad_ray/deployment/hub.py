"""Uploads an exported adapter to the Hub, with huggingface_hub's own login."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.errors import HTTPError as HubError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from adapad_ray.adapters.export import ADAPTER_CONFIG
from adapad_ray.deployment.model_card import shown
from adapad_ray.deployment.record import RECORD, write_json
from adapad_ray.errors import BadRequestError
from adapad_ray.models.reading import quiet_transformers


def check_login(name: str) -> None:
    """Checks, without asking the Hub, that an adapter can be uploaded under a name.

    Raises:
        BadRequestError: the name is none of the Hub's, or nobody is logged in.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadRequestError(f"{name!r} is no name of the Hub: write one as in you/my-adapter") from error
    if get_token() is None:
        raise BadRequestError("nobody is logged in to the Hub: run `hf auth login`, or set HF_TOKEN")


def push_to_hub(folder: Path, name: str, *, private: bool = False) -> str:
    """Uploads an exported adapter as one commit, and returns its address. Paths of this machine are not uploaded.

    Args:
        folder: that `adapad export` wrote.
        name: of the repository, as in `you/my-adapter`; it is created if it does not exist.
        private: whether a new repository is private.

    Raises:
        BadRequestError: the Hub rejects it or cannot be reached, or nobody is logged in.
    """
    check_login(name)
    with tempfile.TemporaryDirectory(prefix="adapad-push-") as scratch, quiet_transformers():
        copy = Path(scratch) / "adapter"
        shutil.copytree(folder, copy)
        _without_paths(copy)
        api = HfApi()
        try:
            url = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=copy, commit_message="Adapter exported by adapad-ray")
        except (HubError, OSError, ValueError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise BadRequestError(f"{name} cannot be uploaded to {api.endpoint}: {reason}") from error
    return str(url)


def _without_paths(folder: Path) -> None:
    """Names the base model as its card does, where the record and the configuration have its path."""
    for file, key in ((RECORD, "model"), (ADAPTER_CONFIG, "base_model_name_or_path")):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        if file == RECORD:
            model = shown(content[key])
        write_json(folder / file, {**content, key: model})
