"""What this app asks a DICOMweb archive, and what its answers mean."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydicom
import requests
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX
from pydicom.datadict import tag_for_keyword
from requests.adapters import HTTPAdapter

from coldstart.exceptions import ArchiveError, ArchiveRefusedError, SettingsError

CONNECT_LIMIT_S, ANSWER_LIMIT_S = 5.0, 30.0
"""How long the archive may take to accept a connection, and between two parts of its answer."""

INFO_FIELDS = (
    *("Modality", "StudyDate", "StudyTime", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "RetrieveURL"),
)
"""What the viewers show of a served image; MONAI Label's names."""
UNKNOWN = "UNK"
"""What MONAI Label says where the archive knows no value."""

_UID = re.compile(r"[0-9.]{1,64}")
_PIXEL_DATA = "7FE00010"
_TRY_LATER = (401, 403, 407, 408, 429, 502, 503, 504)


@dataclass(frozen=True)
class FoundSeries:
    """A series as a search finds it."""

    uid: str
    study: str
    n_instances: int
    info: dict[str, str]


@dataclass(frozen=True)
class Referred:
    """Which series a segmentation was drawn on, and when it was made as `YYYYMMDD HHMMSS`; empty where unknown."""

    series: str
    made_at: str


class _BoundedAdapter(HTTPAdapter):
    """Waits no longer than the limits; leaves out dicomweb-client's `Host`, which lacks the port."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        request.headers.pop("Host", None)
        return super().send(request, *args, **{**options, "timeout": (CONNECT_LIMIT_S, ANSWER_LIMIT_S)})


class ArchiveClient:
    """An archive at an address; user and password come from MONAI Label's environment variables, and are not logged.

    All methods can be called from several threads, and raise `ArchiveError` where the archive is away and
    `ArchiveRefusedError` where it has another answer than asked for.
    """

    def __init__(self, url: str):
        self.url = url
        session = requests.Session()
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        if user and password:
            session.auth = (user, password)
        for scheme in ("http://", "https://"):
            session.mount(scheme, _BoundedAdapter(pool_maxsize=16))
        self._client = DICOMwebClientX(
            url=url,
            session=session,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        self._client.set_http_retry_params(retry=False)
        logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # it says of each question that it asks it

    def search(self, modality: str) -> list[FoundSeries]:
        """All series of a modality."""
        with self._asking(f"a list of its {modality} series"):
            found = self._client.search_for_series(search_filters={"Modality": modality}, get_remaining=True)
            series = [_series(item) for item in found]
        return [one for one in series if one is not None and one.info["Modality"] == modality]

    def download(self, study: str, series: str, folder: Path) -> int:
        """Write the instances of a series into a folder, as `00001.dcm` and so on; return how many."""
        with self._asking(f"the series {series}"):
            number = 0
            for number, instance in enumerate(self._client.iter_series(study, series), start=1):
                instance.save_as(folder / f"{number:05d}.dcm")
        return number

    def referred(self, study: str, series: str) -> Referred:
        """Which series a segmentation was drawn on; the newest one of several in a series."""
        with self._asking(f"the segmentation {series}"):
            metadata = self._client.retrieve_series_metadata(study, series)
            for item in metadata:
                item.pop(_PIXEL_DATA, None)  # an address, which pydicom warns of
            newest = max((pydicom.Dataset.from_json(item) for item in metadata), key=made_at)
            if listed := newest.get("ReferencedSeriesSequence"):
                return Referred(str(listed[0].SeriesInstanceUID), made_at(newest))
            source = _first_source(newest)
            if source is None:
                return Referred("", made_at(newest))
            found = self._client.search_for_instances(search_filters={"SOPInstanceUID": source})
            owner = str(_value(found[0], "SeriesInstanceUID") or "") if found else ""
            return Referred(owner, made_at(newest))

    def store(self, file: Path) -> None:
        """Send an object."""
        with self._asking("to store a segmentation"):
            answer = self._client.store_instances([pydicom.dcmread(file)])
            if answer.get("FailedSOPSequence"):
                raise ValueError("it did not store it")

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except requests.HTTPError as error:
            code = error.response.status_code
            if code in (401, 403):
                raise ArchiveError(
                    f"The archive {self.url} does not let the server in ({code}). Give its user and password in "
                    "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD."
                ) from None
            if code in _TRY_LATER:
                raise self._away(f"status {code}") from None
            raise ArchiveRefusedError(
                f"The archive {self.url} was asked for {what}; got status {code}. Its own log says why."
            ) from None
        except requests.RequestException as error:
            raise self._away(type(error).__name__) from None
        except OSError:
            raise  # of this machine's disk
        # What dicomweb-client and pydicom raise for an answer that is none is not foreseeable.
        except Exception as error:
            raise ArchiveRefusedError(
                f"The archive {self.url} was asked for {what}; its answer cannot be read ({error or type(error)}). "
                "See that the address is that of its DICOMweb service."
            ) from error

    def _away(self, reason: str) -> ArchiveError:
        return ArchiveError(
            f"The archive {self.url} cannot be reached ({reason}). It is tried again by itself; until then what is "
            "known of it counts."
        )


def require_archive_address(url: str) -> str:
    """Take the address of an archive, without a slash at its end.

    Raises
    ------
    SettingsError
        If it names no host, or holds a password, which would be seen in logs and lists of processes.
    """
    parts = urlsplit(url.strip())
    if not parts.hostname:
        raise SettingsError(
            f"--studies must be a folder or an address such as http://host:8042/dicom-web; got '{url}'."
        )
    if parts.username is not None or parts.password is not None:
        raise SettingsError(
            "--studies must not hold a user or password. Give them in MONAI_LABEL_DICOMWEB_USERNAME and "
            "MONAI_LABEL_DICOMWEB_PASSWORD."
        )
    return url.strip().rstrip("/")


def made_at(dataset: pydicom.Dataset) -> str:
    """When an object says that it was made; as text that sorts."""
    for prefix in ("Content", "Series", "InstanceCreation"):
        if date := dataset.get(f"{prefix}Date"):
            return f"{date} {dataset.get(f'{prefix}Time', '')}"
    return ""


def _series(item: dict[str, Any]) -> FoundSeries | None:
    """A series of a search; None for one whose UIDs are none, which could lead anywhere as parts of a path."""
    info = {name: str(UNKNOWN if (value := _value(item, name)) is None else value) for name in INFO_FIELDS}
    uid, study = info["SeriesInstanceUID"], info["StudyInstanceUID"]
    if not (_UID.fullmatch(uid) and _UID.fullmatch(study)) or not uid.strip("."):
        return None
    return FoundSeries(uid, study, int(_value(item, "NumberOfSeriesRelatedInstances") or 0), info)


def _value(item: dict[str, Any], name: str) -> Any:
    values = item.get(f"{tag_for_keyword(name):08X}", {}).get("Value") or [None]
    return values[0]


def _first_source(dataset: pydicom.Dataset) -> str | None:
    for frame in dataset.get("PerFrameFunctionalGroupsSequence") or ():
        for derivation in frame.get("DerivationImageSequence") or ():
            for source in derivation.get("SourceImageSequence") or ():
                return str(source.ReferencedSOPInstanceUID)
    return None
