"""Output folders and files, tried before anything is spent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from materials.errors import InputError


def require_folder(folder: Path, option: str) -> None:
    """Try now whether a folder can be had and written to: after hours is no time to find out that it cannot.

    Args:
        folder: It need not be there yet.
        option: What names it, for the message.

    Raises:
        InputError: It can't.
    """
    try:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not there.is_dir():
            raise InputError(f"{option}: {folder}: {there} is a file; name another folder")
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b" " * 4096)
            file.flush()
            os.fsync(file.fileno())  # a full disk shows here at the latest
    except (OSError, ValueError) as error:  # the latter for a path that none can have
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{option}: {str(folder)[:200]} cannot be written to ({why}); name another folder") from None


def require_file(file: Path, option: str) -> None:
    """Try now whether a file can be written, beside which nothing is made.

    Raises:
        InputError: It can't.
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option}: {file}: there is no folder {folder}; make it, or name another file")
    if file.is_dir():
        raise InputError(f"{option}: {file} is a folder; name a file")
    if not file.exists():
        require_folder(folder, option)
    elif not os.access(file, os.W_OK):
        raise InputError(f"{option}: {file} cannot be written to; name another file")
