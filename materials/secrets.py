"""What of the environment is secret. Processes that only compute are started without it."""

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
