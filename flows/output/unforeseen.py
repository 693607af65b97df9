"""Unforeseen errors as one sentence, with the details in a file."""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from materials.errors import AssayError
from materials.secrets import mask, without_secrets

# What a system refuses, and what a person can do about it.
CURES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "the quota is full: make room there",
    errno.EROFS: "it can only be read: name another place",
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.ENOENT: "look whether it is still there",
    errno.ENOTDIR: "a file stands where a folder is wanted",
    errno.EISDIR: "a folder stands where a file is wanted",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk or the terminal under it has failed",
    errno.ESTALE: "the network file system has lost it: try again",
    errno.ENOMEM: "free some memory",
    errno.EAGAIN: "free some processes or memory (ulimit -u)",
    errno.ELOOP: "links there lead in a circle",
    errno.ETXTBSY: "it is in use",
}


def foreseen(error: Exception, folder: Path | None = None) -> AssayError:
    """Give the error that a person is told: what is ours as it is, a refusal of the system, or what nobody foresaw.

    Args:
        error: What was raised.
        folder: Of the run: details go there if it is there already, else to the system's folder for what is temporary.
    """
    if isinstance(error, AssayError):
        return error
    if isinstance(error, OSError) and error.errno in CURES:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return AssayError(f"{where}{error.strerror}; {CURES[error.errno]}, and the same command goes on from there")
    said = " ".join(str(error).split())
    sentence = f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__
    if isinstance(error, MemoryError):
        sentence = "this machine has no memory left: end what else runs, or ask for less at a time"
    file = _write(error, folder)
    details = f"details are in {file}" if file else "and the details could not be written anywhere"
    return AssayError(_masked(f"something went wrong that nobody foresaw ({sentence}); {details}"))


@contextmanager
def writing_to(place: Path | str) -> Iterator[None]:
    """Have a refusal of the system name what was being written: the system itself names only what cannot be opened."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(place)
        raise


def _write(error: Exception, folder: Path | None) -> Path | None:
    """Write the details where only their owner can read them."""
    content = [
        f"{time.strftime('%Y-%m-%d %H:%M:%S %z')}, Python {platform.python_version()}, {platform.platform()}",
        " ".join(sys.argv),
        "".join(traceback.format_exception(error)),
    ]
    text = _masked("\n".join(content)).encode("utf-8", "backslashreplace")
    run_folder = folder or Path(os.environ.get("ASSAY_RUN_DIR", "assay-runs"))
    for place in ([run_folder] if run_folder.is_dir() else []) + [Path(tempfile.gettempdir())]:
        try:
            handle, name = tempfile.mkstemp(prefix=time.strftime("error-%Y%m%d-%H%M%S-"), suffix=".txt", dir=place)
            with open(handle, "wb") as file:
                file.write(text)
        except OSError:
            continue
        return Path(name)
    return None


def _masked(text: str) -> str:
    """Take out what is secret: of the environment, and passwords in addresses."""
    for value in dict(os.environ.items() - without_secrets(os.environ).items()).values():
        text = text.replace(value, "***") if value else text
    return mask(text)
