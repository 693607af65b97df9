"""Log-in of the Prefect server that `assay up` starts, readable by its user alone."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from materials.errors import InputError
from materials.files import write_atomically

FILE = "server.env"  # in Prefect's home; `export $(cat .prefect/server.env)` gives it to Prefect's own commands
LOCK = "up.lock"  # beside it: the kernel lets go of it with whoever held it, so it is never left over


def prefect_home() -> Path:
    """Say where Prefect's files lie: where PREFECT_HOME says, or in `.prefect` of the folder that one is in."""
    return Path(os.environ.get("PREFECT_HOME") or Path.cwd() / ".prefect")


def new_log_in() -> str:
    """Make USER:PASSWORD, which nobody guesses; of letters that need no quotes in a shell or an address."""
    return f"assay:{secrets.token_urlsafe(24)}"


def make_private(folder: Path) -> None:
    """Make a folder that nobody else can look into, or close one that is there.

    Raises:
        InputError: It cannot be made or closed: somebody else's, who could read what is kept there.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(None, "it belongs to another user")
        folder.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be made a folder of your own ({error.strerror}), and the log-in of Prefect's server is"
            " kept there; start from another folder, or name one in PREFECT_HOME"
        ) from None


@contextmanager
def alone() -> Iterator[None]:
    """Be the only `assay up` that starts a server and keeps its log-in in Prefect's home.

    Raises:
        InputError: Another one runs, or the home cannot be written to.
    """
    file = prefect_home() / LOCK
    try:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)  # processes that are started do not have it
    except OSError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror}): start from another folder, or name one in PREFECT_HOME"
        ) from None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:  # else the file system has no locks, and nobody can tell
            os.close(opened)
            raise InputError(
                f"an `assay up` runs already with Prefect's files in {file.parent}, and its log-in is kept there; use"
                " its server, end it first, or start this one from another folder (or name one in PREFECT_HOME)"
            ) from None
    try:
        yield
    finally:
        os.close(opened)


def keep(url: str, log_in: str) -> Path:
    """Write down the log-in of the server at an address, for this user alone to read.

    Raises:
        InputError: It cannot be written.
    """
    file = prefect_home() / FILE
    try:
        write_atomically(file, f"PREFECT_API_URL={url}\nPREFECT_API_AUTH_STRING={log_in}\n".encode(), private=True)
    except OSError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror}): the log-in of Prefect's server is kept there"
        ) from None
    return file


def kept(url: str) -> str | None:
    """Look up the log-in of the server at an address; None where none was written down, or another server's."""
    try:
        lines = (prefect_home() / FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    told = dict(line.partition("=")[::2] for line in lines)
    log_in = told.get("PREFECT_API_AUTH_STRING")
    return log_in if log_in and _same(told.get("PREFECT_API_URL", ""), url) else None


def use_kept(url: str) -> None:
    """Give Prefect's client the log-in that was written down for an address, unless the user gives it another.

    To be called before Prefect is imported, which reads its environment then.
    """
    if "PREFECT_API_AUTH_STRING" not in os.environ and (log_in := kept(url)):
        os.environ["PREFECT_API_AUTH_STRING"] = log_in


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/").replace("//localhost:", "//127.0.0.1:")
