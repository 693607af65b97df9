"""Content and kind of a file, gzipped or not."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path

from materials.errors import InputError
from materials.sources.files.usable import StructureTrouble

LARGEST_FILE = 256 * 2**20  # bytes, unpacked: what is made of them takes several times as much memory
PICKLE = (
    "a pickle, which is never read, because it can run any code: write df.assign(structure=[s.to_json() for s in"
    " df.structure]).to_parquet('x.parquet') for a table, structure.to('x.cif') for one crystal"
)


def content_suffix(file: Path) -> str:
    """The suffix that says what a file is, in lower case, that of compression left out."""
    name = file.name.lower().removesuffix(".gz")
    return Path(name).suffix


def expanded(path: str) -> Path:
    """The path that a person wrote, `~` and `~user` taken for the folders that they stand for.

    Raises:
        InputError: There is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path} begins with a user's folder, and there is no such user here") from None


def packed(file: Path) -> bytes:
    """The content of a file as it lies on the disk.

    Raises:
        OSError: It cannot be read.
        StructureTrouble: It is no regular file (a pipe would be waited for), or too large.
    """
    told = file.stat()
    if not stat.S_ISREG(told.st_mode):
        raise StructureTrouble("UnreadableStructure", "is not a regular file")
    if told.st_size > LARGEST_FILE:
        raise _too_large()
    return file.read_bytes()


def unpacked(file: Path) -> bytes:
    """The content of a file; gzip is known by its first bytes, whatever the name.

    Raises:
        OSError: It cannot be read.
        StructureTrouble: As `packed`; or it is a damaged gzip, or a pickle.
    """
    data = packed(file)
    if data[:2] == b"\x1f\x8b":
        data = _gunzipped(data)
    if is_pickle(data):
        raise StructureTrouble("UnreadableStructure", f"is {PICKLE}")
    return data


def is_pickle(data: bytes) -> bool:
    """Whether bytes begin as pickles of the protocols 2 to 5 do; no text does."""
    return data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _gunzipped(data: bytes) -> bytes:
    """Unpack gzip, member by member, until it is more than is read."""
    parts: list[bytes] = []
    size = 0
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            parts.append(member.decompress(data, max_length=LARGEST_FILE + 1 - size))
        except zlib.error as error:
            if parts:  # something else stands behind the end
                break
            raise StructureTrouble("UnreadableStructure", f"is a damaged gzip: {error}") from error
        size += len(parts[-1])
        if size > LARGEST_FILE:
            raise _too_large()
        if not member.eof:
            raise StructureTrouble("UnreadableStructure", "is a gzip that was cut short")
        data = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _too_large() -> StructureTrouble:
    return StructureTrouble("UnreadableStructure", f"is larger than {LARGEST_FILE // 2**20} MiB; divide it")


def unpacked_text(file: Path) -> str:
    """The text of a file, never failing on a letter."""
    data = unpacked(file)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    # Old CIFs are in Latin-1; only comments and authors' names suffer from the replacement.
    return data.decode("utf-8-sig", errors="replace")
