"""What all tests share: nothing asks the network, and nobody's own settings take part."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import postgresql

# Before any import of the libraries that read them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_SERVER_EPHEMERAL_ENABLED="false",
    OMP_NUM_THREADS="1",
    MPLBACKEND="agg",
)

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASSAY_DATABASE_URL", "ASSAY_RUN_DIR", "ASSAY_MP_API_KEY_BLOCK", "MP_API_KEY", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="module")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A real PostgreSQL for the tests of one module."""
    try:
        with postgresql.running() as server:
            yield server
    except postgresql.NoPostgreSQL as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def gpaw() -> None:
    """Skip where there is no GPAW."""
    from materials.errors import CodeNotInstalled
    from models.dft.registry import CodeChoice, open_code

    try:
        open_code(CodeChoice(name="gpaw")).version()
    except CodeNotInstalled as error:
        pytest.skip(str(error))
