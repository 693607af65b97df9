"""Secrets in the environment and in URLs: hidden from processes that only compute, masked in text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Keys and passwords of ours, of libpq's, of Prefect's client and of its server.
_SECRET = re.compile(r"MP_API_KEY|ASSAY_DATABASE_URL|PGPASSWORD|PREFECT_\w*(KEY|AUTH|PASSWORD|DATABASE)\w*")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out the variables that hold keys, passwords, or addresses with a password in them."""
    return {name: value for name, value in environment.items() if not _SECRET.fullmatch(name)}


@contextmanager
def secrets_hidden() -> Iterator[None]:
    """Keep them out of this process's environment for a while: processes that start meanwhile do not inherit them."""
    hidden = dict(os.environ.items() - without_secrets(os.environ).items())
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def mask(url: object) -> str:
    """Write a URL, as text or as SQLAlchemy's, with its secrets as `***`."""
    shown = url.render_as_string(hide_password=False) if hasattr(url, "render_as_string") else str(url)
    shown = re.sub(r"(?i)((?:pass|secret|token|key)\w*=)[^&#\s]*", r"\1***", shown)
    return re.sub(r"(://[^:/?#]*:)(.*)(?=@)", r"\1***", shown)
