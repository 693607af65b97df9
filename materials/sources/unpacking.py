"""A file's content and kind, gzipped or not."""

from __future__ import annotations

import gzip
from pathlib import Path


def content_suffix(file: Path) -> str:
    """The suffix that says what a file is, in lower case, that of compression left out."""
    name = file.name.lower().removesuffix(".gz")
    return Path(name).suffix


def unpacked(file: Path) -> bytes:
    """The content of a file; gzip is known by its first bytes, whatever the name."""
    data = file.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def unpacked_text(file: Path) -> str:
    """The text of a file, never failing on a letter."""
    # Old CIFs are in Latin-1; only comments and authors' names suffer from the replacement.
    return unpacked(file).decode("utf-8-sig", errors="replace")
