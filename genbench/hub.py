"""One file of the Hugging Face Hub by one word: `hf:org/name/path/in/repository`, perhaps with `@revision`."""

from __future__ import annotations

import re
from pathlib import Path

from genbench.errors import ModelError

PREFIX = "hf:"
_WORD = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)/(?P<file>[^@]+)(?:@(?P<revision>[\w./-]+))?")


def is_hub_file(word: str) -> bool:
    """Say whether a word asks for a file of the Hub."""
    return word.startswith(PREFIX)


def fetch(word: str, local_only: bool = False) -> Path:
    """Return the file's path in the local cache, downloaded before if need be and allowed.

    Raises ModelError for a malformed word, a file that cannot be fetched, or one that the cache lacks and `local_only`
    (or HF_HUB_OFFLINE) keeps from being fetched.
    """
    found = _WORD.fullmatch(word)
    if found is None:
        raise ModelError(f"'{word}' names no file of the Hub; write hf:org/name/file")
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, file, revision = found["repository"], found["file"], found["revision"]
    cached = try_to_load_from_cache(repository, file, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    elsewhere = f"fetch {file} of {repository} on another machine and give its path"
    if local_only:
        raise ModelError(f"'{word}' is not in the local cache and the Hub is out of bounds; {elsewhere}")
    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except LocalEntryNotFoundError as error:
        raise ModelError(f"'{word}' is not in the local cache and the Hub cannot be reached; {elsewhere}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"'{word}' cannot be fetched ({str(error).strip().splitlines()[0]})") from error
