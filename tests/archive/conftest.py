from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_case import Site

from orthanc import Orthanc, require_orthanc


@pytest.fixture(scope="session")
def running_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """One archive for all tests that leave it running: it takes seconds to end."""
    require_orthanc()
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


@pytest.fixture
def orthanc(running_orthanc: Orthanc) -> Iterator[Orthanc]:
    """An empty archive, not to be stopped."""
    yield running_orthanc
    running_orthanc.clear()


@pytest.fixture
def own_orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """An empty archive of the test's own, which it may stop and start."""
    require_orthanc()
    with Orthanc(tmp_path / "orthanc") as archive:
        yield archive


@pytest.fixture
def site(orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The archive, and datastores on it that ask it at every look."""
    return Site(orthanc, tmp_path, monkeypatch)


@pytest.fixture
def own_site(own_orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """As `site`, on an archive that may be stopped."""
    return Site(own_orthanc, tmp_path, monkeypatch)
