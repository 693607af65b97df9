"""Database URLs: understood, and written without their secrets."""

from __future__ import annotations

import os
import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from materials.errors import InputError

DEFAULT_URL = "sqlite:///assay.db"


def parse_url(url: str | None) -> URL:
    """Understand a database URL, or the path of an SQLite file; None is `./assay.db`.

    Raises:
        InputError: It is neither.
    """
    found = url or DEFAULT_URL
    if "://" not in found:
        return URL.create("sqlite", database=found)
    try:
        parsed = make_url(found)
    except (ArgumentError, ValueError):  # the latter for a port that is no number
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql", "postgres"):
        raise InputError(
            f"--ledger (or ASSAY_DATABASE_URL): cannot use the database URL {mask(found)}:"
            " give sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        )
    if parsed.get_backend_name() != "sqlite":
        # libpq would look for it at each connection: it may be hidden by then, and what is known can be masked.
        password = parsed.password or os.environ.get("PGPASSWORD")
        return parsed.set(drivername="postgresql+psycopg", password=password)
    return parsed


def mask(url: str | URL) -> str:
    """Write a URL with its secrets as `***`."""
    shown = url.render_as_string(hide_password=False) if isinstance(url, URL) else url
    shown = re.sub(r"(?i)((?:pass|secret|token|key)\w*=)[^&#\s]*", r"\1***", shown)
    return re.sub(r"(://[^:/?#]*:)(.*)(?=@)", r"\1***", shown)
