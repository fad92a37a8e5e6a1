"""Each check of a simulated week says so when what it looks for is not true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from soak.checks import (
    HANDLE_GROWTH,
    LEAST_SEGMENT_S,
    MEMORY_GROWTH,
    NOTICED_WITHIN_S,
    WARM_UP_S,
    check_flat,
    check_labels,
    check_log,
    check_played,
    check_replay,
    check_reservations,
    check_well,
    slope,
)
from soak.records import Click, Sample, Save

RESERVED_S = 100.0
LOST = {"answered": None, "status": None}
REFUSED = {"status": 507}


def click(who: str, image: str | None, at: float, *, named: bool = True) -> Click:
    return Click(who, who if named else None, at, at + 1, 200 if image else 503, image)


def save(image: str, file: str, at: float, **changes: object) -> Save:
    made = Save("ann", "put", image, file, f"voxels of {file}", at, at + 1, 200)
    return replace(made, **changes)  # type: ignore[arg-type]


def labels(saves: Sequence[Save], kept: dict[str, str]) -> list[str]:
    return check_labels(saves, kept, "file", "here").problems


def test_label_that_was_saved_last_is_the_one_to_be_kept() -> None:
    saves = [save("a", "one", 0), save("a", "two", 5), save("b", "three", 6)]
    assert labels(saves, {"a": "two", "b": "three"}) == []
    assert labels(saves, {"a": "one", "b": "three"}) == [
        "The label of a is not the one that was saved last, but an earlier or a refused one."
    ]
    assert labels(saves, {"a": "two "[:3] + "!", "b": "three"}) == [
        "The label of a is not the one that was saved last, but one that nobody sent."
    ]
    assert labels(saves, {"a": "two"}) == ["The label of b is gone."]
    assert labels(saves, {"a": "two", "b": "three", "c": "four"}) == ["c has a label that nobody saved."]


def test_label_by_its_voxels() -> None:
    saves = [save("a", "one", 0)]
    assert check_labels(saves, {"a": "voxels of one"}, "voxels", "there").is_true
    assert not check_labels(saves, {"a": "voxels of two"}, "voxels", "there").is_true


def test_label_whose_save_was_cut_off_may_be_there_or_not() -> None:
    saves = [save("a", "one", 0), save("a", "two", 5, **LOST)]
    assert labels(saves, {"a": "one"}) == labels(saves, {"a": "two"}) == []
    again = [*saves, save("a", "three", 9)]
    assert labels(again, {"a": "three"}) == []
    assert labels(again, {"a": "one"}) and labels(again, {"a": "two"})
    assert labels([saves[1], save("b", "x", 0)], {"b": "x"}) == []


def test_label_that_was_refused_is_not_to_be_there() -> None:
    assert labels([save("a", "one", 0), save("a", "two", 5, **REFUSED)], {"a": "two"})
    assert labels([save("a", "one", 0), save("a", "two", 5, **REFUSED)], {"a": "one"}) == []


def test_labels_that_were_sent_at_once_may_be_either() -> None:
    saves = [save("a", "one", 0), save("a", "two", 0.5)]
    assert labels(saves, {"a": "one"}) == labels(saves, {"a": "two"}) == []


def reservations(clicks: Sequence[Click], saves: Sequence[Save] = ()) -> list[str]:
    return check_reservations(clicks, saves, RESERVED_S).problems


def test_image_that_is_with_somebody_is_not_to_be_served() -> None:
    first = click("ann", "a", 0)
    assert reservations([first, click("bob", "b", 5)]) == []
    assert reservations([first, click("bob", "a", 5)]) == [
        "a was served to bob 6.0 s after ann had asked, and was still with ann."
    ]
    assert reservations([first, click("bob", "a", 0.2)])
    assert reservations([click("ohif", "a", 0, named=False), click("ohif", "a", 50, named=False)])
    assert reservations([first, click("bob", "a", RESERVED_S + 1)]) == []


def test_image_that_was_let_go_may_be_served_again_from_then_on() -> None:
    let_go = [click("ann", "a", 0), click("ann", "b", 10)]
    assert reservations([*let_go, click("bob", "a", 20)]) == []
    assert reservations([*let_go, click("bob", "a", 5)])
    assert reservations([click("ann", "a", 0), click("ann", None, 10), click("bob", "a", 20)]) == []
    anonymous = [replace(one, client_id=None) for one in let_go]
    assert reservations([*anonymous, click("bob", "a", 20)])


def test_image_that_is_labelled_is_not_to_be_served() -> None:
    clicks = [click("ann", "a", 0), click("bob", "a", 2 * RESERVED_S)]
    assert reservations(clicks, [save("a", "one", 10)]) == ["a was served to bob 189.0 s after ann had labelled it."]
    assert reservations(clicks, [save("a", "one", 10, **REFUSED)]) == []
    late = 2 * RESERVED_S - 1 - NOTICED_WITHIN_S
    assert reservations(clicks, [save("a", "one", late + 0.5, way="stow")]) == []
    assert reservations(clicks, [save("a", "one", late - 0.5, way="stow")])


def test_every_decision_has_to_come_out_the_same() -> None:
    line = {"id": 7, "kind": "click", "sentence": "Another image."}
    found = {"decisions": 3, "same": 3, "different": 0, "cannot_tell": 0, "lines": [{**line, "same": True}]}
    assert check_replay(found, 0).is_true
    for same in (False, None):
        assert "Another image." in check_replay({**found, "lines": [{**line, "same": same}]}, 0).problems[0]
    assert check_replay(found, 1).problems == ["coldstart replay ended with 1."]
    assert not check_replay({**found, "same": 0}, 0).is_true


def test_every_answer_has_to_be_in_the_log() -> None:
    clicks = [click("ann", "a", 0), click("ohif", "b", 5, named=False), click("ann", None, 7)]
    lines = [{"at": 0.5, "who": "ann", "image_id": "a"}, {"at": 5.5, "who": None, "image_id": "b"}]
    assert check_log(clicks, lines).is_true
    assert not check_log(clicks, lines[:1]).is_true
    assert not check_log(clicks, [lines[0], {**lines[1], "who": "ann"}]).is_true
    assert not check_log(clicks, [lines[0], {**lines[1], "at": 9.0}]).is_true
    assert not check_log([clicks[0], clicks[0]], lines[:1]).is_true, "one line stands for one answer"


def samples(megabytes: float, handles: int, *, more_mb: float = 0, more_handles: float = 0) -> list[Sample]:
    """Of a process that takes what it needs in its warm-up, and `more` in the time after that."""
    lasts = WARM_UP_S + 4 * LEAST_SEGMENT_S
    found = []
    for at in range(int(lasts)):
        part = max(0.0, at - WARM_UP_S) / (lasts - WARM_UP_S)
        memory = megabytes * min(1, 0.3 + at / WARM_UP_S) + more_mb * part
        found.append(Sample(at, 1, 1, memory, 0, int(handles + more_handles * part), 9, 0, 0))
    return found


def test_growth_of_memory_or_handles_is_said() -> None:
    assert check_flat(samples(500, 60)).is_true
    assert check_flat(samples(500, 60, more_mb=500 * MEMORY_GROWTH)).is_true
    assert "memory grew by" in check_flat(samples(500, 60, more_mb=2 * 500 * MEMORY_GROWTH)).problems[0]
    assert check_flat(samples(500, 60, more_handles=HANDLE_GROWTH)).is_true
    assert "handles more" in check_flat(samples(500, 60, more_handles=2 * HANDLE_GROWTH + 2)).problems[0]


def test_process_that_ran_too_short_shows_nothing() -> None:
    short = [one for one in samples(500, 60) if one.at < WARM_UP_S + LEAST_SEGMENT_S - 1]
    assert "so nothing was shown" in check_flat(short).problems[0]
    cold = [replace(one, inferred=0) for one in samples(500, 60)]
    assert "so nothing was shown" in check_flat(cold).problems[0]
    both = [*short, *(replace(one, start=2, at=one.at + 1000) for one in samples(500, 60, more_mb=100))]
    assert [segment["judged"] for segment in check_flat(both).figures["segments"]] == [False, True]
    assert len(check_flat(both).problems) == 1


def test_slope_is_that_of_a_line_whatever_single_values_do() -> None:
    values = [2.0 * at for at in range(100)]
    values[40] = 1e6
    assert slope(list(range(100)), values) == pytest.approx(2.0)


def test_week_in_which_nothing_happened_shows_nothing() -> None:
    assert check_played({"kills": 3}, {"kills": 3}).is_true
    assert check_played({"kills": 2}, {"kills": 3}).problems == ["'kills' happened 2 times, and was to happen 3 times."]
    assert not check_played({}, {"kills": 1}).is_true
    for verdict in (check_labels([], {}, "file", "here"), check_reservations([], [], 1.0), check_flat([])):
        assert "nothing was shown" in verdict.problems[0]


def test_illness_at_the_end_is_said() -> None:
    info = {"watch_errors": {}, "task_errors": {}}
    health = {"parts": {"disk": "well"}, "details": {}}
    assert check_well(info, health, []).is_true
    assert not check_well({**info, "task_errors": {"train": "It failed."}}, health, []).is_true
    assert not check_well(info, {**health, "details": {"disk": "It is full."}}, []).is_true
    assert not check_well(info, health, ["Annotator fast stumbled."]).is_true
