"""Settings that are chosen while the server runs, what they would mean, and images that are tried again."""

from __future__ import annotations

import pickle
import re
import shutil
import threading

import campaign_case as case
import pytest
from campaign_case import BUDGET, N_POOL, click, clicks, label, plan, planned, random_entropies, rows, score, servings
from filelock import FileLock
from sqlalchemy import select

import large_pool
from coldstart.campaign import Campaign, drafting, planning, steering
from coldstart.exceptions import InvalidInputError, SettingsError, StoreBusyError
from coldstart.store import Decision, Image


def ids(preview) -> list[str]:
    return [coming.image_id for coming in preview.picks]


def make_active(campaign) -> None:
    for image_id in clicks(campaign, BUDGET):
        label(campaign, image_id)
    score(campaign, random_entropies())


def everything(campaign) -> list[str]:
    """All that the database holds."""
    with campaign.store.reading() as session:
        return list(session.connection().connection.driver_connection.iterdump())


def test_chosen_values_are_in_force_in_every_process_and_after_a_restart(campaign, make_campaign):
    other = make_campaign()
    assert (other.settings.alpha, other.settings.budget) == (0.3, BUDGET)
    assert campaign.use(who="ann", alpha=0.8).alpha == 0.8
    campaign.use(who="bob", budget=9)
    for one in (campaign, other, make_campaign(), pickle.loads(pickle.dumps(campaign))):
        assert (one.settings.alpha, one.settings.budget) == (0.8, 9)
        assert one.status()["budget"] == 9
    chosen = other.chosen_settings()
    assert [(name, one["value"], one["configured"], one["who"]) for name, one in sorted(chosen.items())] == [
        ("alpha", 0.8, 0.3, "ann"),
        ("budget", 9, BUDGET, "bob"),
    ]


def test_new_budget_is_no_work_for_a_task_while_its_plan_is_carried_on(campaign, monkeypatch):
    found, update_plan = [], planning.update_plan
    look = threading.Thread(target=lambda: found.append(campaign.tasks_to_do()))

    def look_first(*arguments):
        look.start()
        look.join(0.5)
        update_plan(*arguments)

    monkeypatch.setattr(planning, "update_plan", look_first)
    campaign.use(who=None, budget=9)
    look.join(60)
    assert found == [{}] and len(planned(campaign)) == 9


def test_a_choice_yields_when_its_setting_is_configured_otherwise(campaign, make_campaign):
    campaign.use(who="ann", alpha=0.8, budget=9)
    changed = make_campaign(budget=5)
    assert (changed.settings.alpha, changed.settings.budget) == (0.8, 5)
    assert set(changed.chosen_settings()) == {"alpha"}
    assert set(changed.tasks_to_do()) == {"embedding"}
    changed.embed()
    assert plan(changed).budget == 5
    assert make_campaign(alpha=0.5).settings.alpha == 0.5


def test_a_server_that_is_configured_otherwise_ends_a_choice_for_good(campaign, make_campaign, caplog):
    campaign.use(who="ann", alpha=0.8, budget=9)
    make_campaign().end_overruled_choices()
    assert make_campaign().settings.budget == 9
    make_campaign(budget=5).end_overruled_choices()
    assert f"`budget` is 5, as configured now; 9, which was chosen when {BUDGET} was configured" in caplog.text
    again = make_campaign()
    assert (again.settings.alpha, again.settings.budget) == (0.8, BUDGET)
    assert log_of(again)[-1] == (None, {"before": {"budget": 9}, "now": {"budget": 5}})


def log_of(campaign) -> list[tuple[str | None, dict]]:
    with campaign.store.reading() as session:
        lines = select(Decision.who, Decision.details).where(Decision.kind == "settings").order_by(Decision.id)
        return list(session.execute(lines).tuples())


def test_every_choice_is_in_the_selection_log(campaign):
    campaign.use(who="ann", alpha=0.8)
    campaign.use(who=None, alpha=0.1, budget=9)
    assert log_of(campaign) == [
        ("ann", {"before": {"alpha": 0.3}, "now": {"alpha": 0.8}}),
        (None, {"before": {"alpha": 0.8, "budget": BUDGET}, "now": {"alpha": 0.1, "budget": 9}}),
    ]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"alpha": 1.5}, "`alpha` has a bad value '1.5' in the request"),
        ({"alpha": float("nan")}, "`alpha` has a bad value 'nan' in the request"),
        ({"alpha": "much"}, "`alpha` has a bad value 'much' in the request"),
        ({"budget": 0}, "`budget` has a bad value '0' in the request"),
        ({"budget": 2.5}, "`budget` has a bad value '2.5' in the request"),
        ({"budget": True}, "`budget` has a bad value 'True' in the request"),
        ({"budget": 10**30}, f"`budget` has a bad value '{10**30}' in the request"),
        ({"alpha": 0.5, "budget": -1}, "`budget` has a bad value '-1' in the request"),
    ],
)
def test_a_bad_value_is_refused_with_a_sentence_and_changes_nothing(campaign, values, sentence):
    before = everything(campaign)
    for ask in (campaign.preview, lambda **given: campaign.use(who="ann", **given)):
        with pytest.raises(SettingsError, match=re.escape(sentence)):
            ask(**values)
    assert everything(campaign) == before


def test_use_without_a_value_is_refused(campaign):
    with pytest.raises(InvalidInputError, match=r"`alpha` or `budget` must be given; got neither\. Name the value"):
        campaign.use(who="ann")


def test_the_largest_budget_can_be_used(campaign):
    campaign.use(who="ann", budget=1_000_000_000)
    assert plan(campaign).size == N_POOL
    assert "more than the pool holds" in campaign.preview(n=1).picks[0].reason


def test_a_click_uses_the_chosen_alpha_and_one_with_its_own_keeps_it(campaign, make_campaign):
    make_active(campaign)
    make_campaign().use(who="ann", alpha=0.9)  # by another process
    click(campaign)  # the first after a scoring is by entropy
    assert click(campaign).why["alpha"] == 0.9
    assert click(campaign, alpha=0.2).why["alpha"] == 0.2
    assert click(campaign).why["alpha"] == 0.9


def test_a_raised_budget_carries_the_plan_on_at_once(campaign, make_campaign):
    served = clicks(campaign, 3)
    campaign.use(who="ann", budget=14)
    assert planned(campaign) == served + case.fresh_plan(campaign, 14, tuple(served))
    assert campaign.tasks_to_do() == {}
    again = make_campaign()
    assert again.tasks_to_do() == {}, "the choice holds after a restart: nothing is planned anew"
    assert clicks(again, 11) == planned(campaign)[3:]


def test_a_lowered_budget_cuts_the_plan_at_once(campaign):
    before = planned(campaign)
    served = clicks(campaign, 2)
    campaign.use(who="ann", budget=4)
    assert planned(campaign) == [*served, *before[2:4]]
    assert campaign.tasks_to_do() == {}


def test_a_lowered_budget_ends_the_cold_start(campaign):
    for image_id in clicks(campaign, 4):
        label(campaign, image_id)
    score(campaign, random_entropies())
    assert campaign.preview(n=1).picks[0].phase == "cold_start"
    campaign.use(who="ann", budget=4)
    assert click(campaign).why["phase"] == "active"


def test_a_budget_chosen_before_the_images_are_embedded_is_planned_with(make_new, pictures):
    campaign = make_new()
    campaign.sync(case.list_files(pictures), {})
    campaign.use(who="ann", budget=5)
    campaign.embed()
    assert plan(campaign).size == 5


def test_a_budget_chosen_while_images_are_embedded_is_planned_when_that_has_ended(campaign):
    with FileLock(campaign.folder / "embedding.lock"):
        campaign.use(who="ann", budget=14)
    assert plan(campaign).budget == BUDGET
    assert set(campaign.tasks_to_do()) == {"embedding"}
    campaign.embed()
    assert plan(campaign).budget == 14


def test_a_baseline_plans_for_the_chosen_budget(campaign):
    campaign.use(who="ann", budget=5)
    assert "pick 5 of 5" in [click(campaign, "k_center_map") for _ in range(5)][-1].why["reason"]
    campaign.use(who="ann", budget=7)
    assert "pick 6 of 7" in click(campaign, "k_center_map").why["reason"]


def test_preview_of_what_is_in_force_is_what_clicks_get(campaign):
    for _ in range(2):
        ahead = campaign.preview(n=6)
        served = [click(campaign) for _ in range(6)]
        assert ids(ahead) == [sample.image_id for sample in served]
        for rank, (coming, sample) in enumerate(zip(ahead.picks, served, strict=True), start=1):
            assert coming.rank == rank
            for name in ("phase", "reason", "entropy", "distance", "score"):
                assert getattr(coming, name) == sample.why[name]


@pytest.mark.parametrize("n_taken", [0, 3, 8])
@pytest.mark.parametrize("budget", [1, 2, 5, 8, 9, 14, 30, 500])
def test_preview_of_a_budget_is_what_clicks_get_once_it_is_used(campaign, budget, n_taken):
    served = clicks(campaign, n_taken)
    for image_id in served[::2]:
        label(campaign, image_id)
    before = everything(campaign)
    preview = campaign.preview(budget=budget, n=12)
    assert everything(campaign) == before
    assert (preview.budget, preview.alpha) == (budget, 0.3)
    campaign.use(who="ann", budget=budget)
    samples = [click(campaign) for _ in range(12)]
    assert ids(preview) == [sample.image_id for sample in samples]
    assert [coming.reason for coming in preview.picks] == [sample.why["reason"] for sample in samples]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_preview_of_an_alpha_is_what_clicks_with_it_get(campaign, alpha):
    make_active(campaign)
    click(campaign)
    before = everything(campaign)
    preview = campaign.preview(alpha=alpha, n=7)
    assert everything(campaign) == before
    samples = [click(campaign, alpha=alpha) for _ in range(7)]
    assert ids(preview) == [sample.image_id for sample in samples]
    assert [coming.score for coming in preview.picks] == [sample.why["score"] for sample in samples]


def test_previews_in_turn_do_not_disturb_each_other_nor_clicks(campaign, make_campaign, tmp_path):
    make_active(campaign)
    shutil.copytree(campaign.folder, tmp_path / "twin")
    twin = Campaign(campaign.configured, tmp_path / "twin")
    asked = [{"alpha": 1.0}, {"budget": 20}, {"alpha": 0.0, "budget": 3}, {"n": 20}, {"budget": 12, "n": 4}, {}]
    for turn in range(3):
        for values in asked:
            anew = make_campaign()
            assert campaign.preview(**values) == anew.preview(**values)
        assert click(campaign).why == click(twin).why, f"turn {turn}"
    twin.store.close()


def test_preview_knows_a_click_that_could_not_be_written(campaign, monkeypatch):
    def busy():
        raise StoreBusyError("held")

    with monkeypatch.context() as patched:
        patched.setattr(campaign.store, "writing", busy)
        served = click(campaign, "uniform_random").image_id
        ahead = ids(campaign.preview(budget=14, n=20))
    label(campaign, served)
    assert served not in ahead
    assert ids(campaign.preview(budget=14, n=20)) == ahead, "it counts in the plan as it does when it is written"


def test_preview_asks_k_means_once_for_all_budgets(campaign, monkeypatch):
    campaign.preview(budget=14)
    monkeypatch.setattr(drafting, "choose_n_clusters", lambda *_: pytest.fail("clustered again"))
    monkeypatch.setattr(steering, "Clusterings", lambda *_, **__: pytest.fail("clustered again"))
    for budget in (9, 12, 29):
        assert ids(campaign.preview(budget=budget, n=30))[:budget] == case.fresh_plan(campaign, budget)
    campaign.use(who="ann", budget=20)
    assert planned(campaign) == case.fresh_plan(campaign, 20)


def test_preview_says_whether_alpha_counts_yet(campaign):
    assert campaign.preview(n=3).sentence == (
        f"With alpha 0.3 and a budget of {BUDGET}, these 3 images come next; alpha plays no part yet: it counts once "
        f"{BUDGET} images are labelled and a model has scored the others."
    )
    make_active(campaign)
    assert campaign.preview(alpha=0.75, n=1).sentence == (
        f"With alpha 0.75 and a budget of {BUDGET}, this image comes next."
    )


def test_preview_of_an_empty_and_of_a_labelled_pool_says_so(campaign, make_new):
    nothing = "Nothing comes next: every image that can be used is labelled, or with somebody."
    assert make_new().preview().sentence == nothing
    for image_id in case.pool(campaign)[0]:
        label(campaign, image_id)
    found = campaign.preview(budget=40)
    assert (found.picks, found.sentence) == ([], nothing)


def test_preview_before_the_images_are_embedded_draws_at_random_as_clicks_do(make_new, pictures):
    campaign = make_new()
    campaign.sync(case.list_files(pictures), {})
    assert {coming.phase for coming in campaign.preview(budget=3, n=4).picks} == {"before_embedding"}
    assert ids(campaign.preview(n=4)) == clicks(campaign, 4)


def test_a_choice_counts_although_the_plan_cannot_be_written_for_now(campaign, monkeypatch, caplog):
    def busy(*_):
        raise StoreBusyError("The database is held.")

    with monkeypatch.context() as patched:
        patched.setattr(planning, "update_plan", busy)
        assert campaign.use(who="ann", budget=14).budget == 14
    assert "The plan follows the new budget a little later: The database is held." in caplog.text
    assert set(campaign.tasks_to_do()) == {"embedding"}


def test_a_database_made_anew_holds_what_was_chosen(campaign, pictures):
    campaign.sync(case.list_files(pictures), {})
    campaign.use(who="ann", alpha=0.8)
    before = campaign.chosen_settings()
    for path in campaign.folder.glob("coldstart.sqlite*"):
        if path.suffix != ".lock":
            path.unlink()
    assert campaign.chosen_settings() == before
    assert campaign.settings.alpha == 0.8
    assert servings(campaign) == []


def set_aside(campaign) -> dict[str, str]:
    return {image_id: row.problem for image_id, row in rows(campaign).items() if row.problem is not None}


@pytest.fixture
def damaged(make_new, pictures, tmp_path):
    """A campaign with three images that cannot be read, of which one has become readable, unseen."""
    files = case.list_files(pictures)
    for name in ("bad_1", "bad_2", "bad_3"):
        (tmp_path / f"{name}.png").write_bytes(files["p00"].read_bytes()[:100])
        files[name] = tmp_path / f"{name}.png"
    campaign = make_new(budget=5)
    campaign.sync(files, {})
    campaign.embed()
    assert set(set_aside(campaign)) == {"bad_1", "bad_2", "bad_3"}
    assert campaign.tasks_to_do() == {}
    return campaign


def mend(campaign, pictures, name: str) -> None:
    """As when a share that gave errors reads again: size and time of the file are the same."""
    with campaign.store.reading() as session:
        path = session.scalar(select(Image.path).where(Image.image_id == name))
    shutil.copy(pictures / "p01.png", path)


def test_images_set_aside_are_tried_again(damaged, pictures):
    mend(damaged, pictures, "bad_1")
    assert damaged.retry_set_aside() == 3
    assert set(damaged.tasks_to_do()) == {"embedding"}
    damaged.embed()
    assert set(set_aside(damaged)) == {"bad_2", "bad_3"}
    assert rows(damaged)["bad_1"].point is not None
    assert damaged.tasks_to_do() == {}


def test_only_the_images_named_are_tried_again(damaged, pictures):
    before = set_aside(damaged)
    assert damaged.retry_set_aside([]) == 0
    assert damaged.retry_set_aside(["p01", "nobody"]) == 0
    assert set_aside(damaged) == before
    assert damaged.retry_set_aside(["bad_2", "bad_2", "nobody", *map(str, range(2000))]) == 1
    assert set(set_aside(damaged)) == {"bad_1", "bad_3"}


def test_what_takes_long_in_a_large_pool_is_kept_for_the_next_preview(tmp_path, monkeypatch):
    campaign = large_pool.prepare(tmp_path / "state", large_pool.write_images(tmp_path / "images", 1000))
    campaign.preview(budget=50)
    monkeypatch.setattr(planning, "pool_rows", lambda *_: pytest.fail("read the pool"))
    monkeypatch.setattr("coldstart.campaign.pool._read_pool", lambda *_: pytest.fail("read the pool"))
    monkeypatch.setattr("coldstart.selection.clusters._k_means", lambda *_: pytest.fail("clustered"))
    found = [ids(campaign.preview(budget=budget, n=10)) for budget in (41, 60, 999)]
    assert all(len(set(picks)) == 10 for picks in found)
    monkeypatch.setattr(drafting, "plan_cold_start", lambda *_, **__: pytest.fail("planned"))
    assert ids(campaign.preview(budget=999, alpha=0.7, n=10)) == found[-1], "only alpha is another one"
    campaign.store.close()
