"""The Hugging Face Hub: one file by one word, `hf:org/name/path/in/repository`, perhaps with `@revision`; and whether
it may be asked at all, for whoever fetches (`closed`).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genbench.errors import ModelError

PREFIX = "hf:"
OFFLINE = "offline=true or HF_HUB_OFFLINE"
_WORD = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)/(?P<file>[^@]+)(?:@(?P<revision>[\w./-]+))?")


@contextmanager
def closed(local_only: bool = True) -> Generator[None]:
    """While it lasts, with `local_only`, no request leaves for the Hub, whichever library makes it. What an outer block
    closed stays closed.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or local_only
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_closed() -> bool:
    """Say whether the Hub is out of bounds, by `closed` or by HF_HUB_OFFLINE."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_hub_file(word: str) -> bool:
    """Say whether a word asks for a file of the Hub."""
    return word.startswith(PREFIX)


def fetch(word: str, local_only: bool = False, kind: str | None = None) -> Path:
    """Return the file's path in the local cache, downloaded before if need be and allowed; `kind` is `dataset` for a
    repository that is no model's. A word that ends with `/` asks for every file of that folder.

    Raises ModelError for a malformed word, a file that cannot be fetched, or one that the cache lacks and `local_only`
    (or `closed`) keeps from being fetched.
    """
    found = _WORD.fullmatch(word)
    if found is None:
        raise ModelError(f"'{word}' names no file of the Hub; write hf:org/name/file")
    from huggingface_hub.errors import LocalEntryNotFoundError

    local_only = local_only or is_closed()
    repository, file = found["repository"], found["file"]
    chosen = {"revision": found["revision"], **({"repo_type": kind} if kind else {})}
    cached = _cached(repository, file, chosen, local_only)
    if cached is not None:
        return cached
    elsewhere = f"fetch {file} of {repository} on another machine and give its path"
    if local_only:
        raise ModelError(f"'{word}' is not in the local cache and the Hub is out of bounds ({OFFLINE}); {elsewhere}")
    try:
        return _download(repository, file, chosen)
    except LocalEntryNotFoundError as error:
        raise ModelError(f"'{word}' is not in the local cache and the Hub cannot be reached; {elsewhere}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"'{word}' cannot be fetched ({str(error).strip().splitlines()[0]})") from error


def _cached(repository: str, file: str, chosen: Mapping[str, Any], local_only: bool) -> Path | None:
    """Return where the cache holds a file. A folder may be there in part, so the Hub is asked if it may be."""
    from huggingface_hub import try_to_load_from_cache

    if not file.endswith("/"):
        found = try_to_load_from_cache(repository, file, **chosen)
        return Path(found) if isinstance(found, str) else None
    try:
        folder = _download(repository, file, {**chosen, "local_files_only": True}) if local_only else None
    except (OSError, ValueError):
        return None
    return folder if folder is not None and folder.is_dir() else None


def _download(repository: str, file: str, chosen: Mapping[str, Any]) -> Path:
    import huggingface_hub

    library: Any = huggingface_hub  # its types are partly unknown
    if file.endswith("/"):
        return Path(library.snapshot_download(repository, allow_patterns=[f"{file}*"], **chosen)) / file
    return Path(library.hf_hub_download(repository, file, **chosen))
