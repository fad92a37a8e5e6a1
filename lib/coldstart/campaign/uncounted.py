"""What was saved or removed and the database does not know yet: clicks count it all the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from coldstart.exceptions import StoreBusyError, StoreError


class UncountedLabels:
    """Images that the database does not know to be labelled, or gone, or free again yet.

    Attributes
    ----------
    states : dict of str to bool
        By image id: True is labelled or gone, False is free again.
    reason : str or None
        Why the database could not be written. As long as there is one, nobody waits for the database again.
    """

    def __init__(self) -> None:
        self.states: dict[str, bool] = {}
        self.reason: str | None = None

    @contextmanager
    def counting(self, image_id: str, *, labelled: bool) -> Iterator[None]:
        """Make clicks know what the database is being told.

        Raises
        ------
        StoreError
            If it could not be told, now or the last time.
        """
        self.states[image_id] = labelled
        if self.reason is not None:
            raise StoreBusyError(self.reason)
        try:
            yield
        except StoreError as error:
            self.reason = str(error)
            raise
        self.states.pop(image_id, None)

    def note_gone(self, image_ids: Collection[str]) -> Collection[str]:
        """Count images that are gone as labelled, and return all that the database is to be told."""
        self.states.update(dict.fromkeys(image_ids, True))
        return list(self.states)

    def written(self, image_ids: Collection[str]) -> None:
        """Forget what the database was told."""
        for image_id in image_ids:
            self.states.pop(image_id, None)
        self.reason = None
