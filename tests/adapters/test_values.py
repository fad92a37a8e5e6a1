"""What may be in the names of requests."""

from __future__ import annotations

import pytest

from coldstart.adapters.errors import AppError
from coldstart.adapters.values import MAX_SUFFIX_LENGTH, require_file_name

LONGEST_UID = "1." + "2" * 62


@pytest.mark.parametrize("name", ["label.nrrd", f"{LONGEST_UID}.seg.nrrd", f"/tmp/{LONGEST_UID}.nii.gz", "label", ""])
def test_file_that_is_named_after_its_series_can_be_uploaded(name: str) -> None:
    require_file_name(name)


@pytest.mark.parametrize("name", [f"a.{'b' * MAX_SUFFIX_LENGTH}", "a\n.nrrd", "a\x00.nrrd", "\ud800.nrrd"])
def test_file_name_that_no_temporary_file_could_have_is_refused(name: str) -> None:
    with pytest.raises(AppError, match="An uploaded file must have a name"):
        require_file_name(name)
