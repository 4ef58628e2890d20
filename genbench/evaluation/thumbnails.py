"""Small pictures for the report: WebP, at most EDGE pixels, made once per picture and kept in a cache file.

They lie inside the page, not beside it: the page alone can be mailed and still shows every picture, ten thousand
pictures are not ten thousand files to copy, and scrolling never decodes a full-size PNG. A click loads the full picture
through a relative link, where the folder is there. At 4 KB each, 10,000 pictures make a page of about 55 MB.
"""

from __future__ import annotations

import base64
import io
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from genbench.evaluation.store import Made

FILE = "thumbnails.sqlite"
EDGE = 160  # pixels of the longer side
QUALITY = 70  # of WebP
CHUNK = 64  # pictures per transaction

Progress = Callable[[int], None]


def thumbnails(folder: Path, made: Sequence[Made], progress: Progress) -> dict[str, str]:
    """Return {image hash: WebP in base64}; a picture that cannot be read has none. The cache file may be deleted."""
    wanted = {picture.image: folder / picture.path for picture in made}
    with closing(_opened(folder / FILE)) as cache:
        known = _known(cache, wanted)
        todo = [image for image in wanted if image not in known]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for first in range(0, len(todo), CHUNK):
                images = todo[first : first + CHUNK]
                small = pool.map(shrunk, [wanted[image] for image in images])
                new = {image: data for image, data in zip(images, small, strict=True) if data}
                with cache:
                    cache.executemany("INSERT OR REPLACE INTO thumbnails VALUES (?, ?)", new.items())
                known |= new
                progress(len(images))
    return {image: base64.b64encode(known[image]).decode() for image in wanted if image in known}


def shrunk(path: Path) -> bytes:
    """Return the picture as WebP of at most EDGE pixels, never enlarged; empty where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            small = opened.convert("RGB")
            small.thumbnail((EDGE, EDGE), Image.Resampling.LANCZOS)
            encoded = io.BytesIO()
            small.save(encoded, "WEBP", quality=QUALITY)
    except (OSError, ValueError):
        return b""
    return encoded.getvalue()


def _opened(path: Path) -> sqlite3.Connection:
    cache = sqlite3.connect(path, timeout=60)
    cache.execute("CREATE TABLE IF NOT EXISTS thumbnails (image TEXT PRIMARY KEY, webp BLOB)")
    return cache


def _known(cache: sqlite3.Connection, wanted: Mapping[str, Path]) -> dict[str, bytes]:
    return {image: data for image, data in cache.execute("SELECT image, webp FROM thumbnails") if image in wanted}
