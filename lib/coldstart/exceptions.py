"""Errors of this package: each carries one sentence that a person can act on.

Every message says which argument or file is meant, what is required, what was received, and the remedy.
"""


class ColdStartError(Exception):
    """Base of all errors that this package raises on purpose."""


class InvalidInputError(ColdStartError, ValueError):
    """An argument has the wrong shape, type or range."""


class SettingsError(ColdStartError):
    """A preset, a `--conf` pair or a request holds an unknown key or a bad value."""


class ImageError(ColdStartError):
    """An image cannot be used (unreadable, empty, non-finite, wrong dimension); it is set aside with this reason."""


class LabelError(ColdStartError):
    """A label cannot be used for training (shape, geometry, unknown value or name)."""


class ArchiveError(ColdStartError):
    """The DICOM archive cannot be asked for now: out of reach, overloaded, or it does not let the server in."""


class ArchiveRefusedError(ArchiveError):
    """The archive answered, but not with what this one request was for; asked again it would say the same."""


class EncoderError(ColdStartError):
    """An encoder or its weights cannot be used."""


class ModelError(ColdStartError):
    """No trained model is there, or its file cannot be used."""


class StoreError(ColdStartError):
    """The app's database cannot be opened, read or written."""


class StoreBusyError(StoreError):
    """The database cannot be written for now: no room on the disk, or another program holds it; it is not damaged."""


class StoreDamagedError(StoreError):
    """The database was damaged; it was kept aside and a new one is being filled."""
