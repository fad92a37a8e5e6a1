"""Embedding runs: what is killed goes on with what is missing, what was replaced meanwhile is not overwritten."""

from __future__ import annotations

import shutil

import campaign_case as case
import numpy as np
import pytest
from campaign_case import planned, rows

from coldstart.campaign import Campaign, drafting, planning, vectors, work
from coldstart.embedding import create_encoder
from coldstart.store import Image

N_ALL = case.N_POOL + len(case.HELD_OUT)


class Killed(BaseException):
    """As Ctrl-C: nothing in between may catch it."""


class CountingEncoder:
    """The descriptor, which counts what it encodes, can be killed, and can do something before a batch."""

    def __init__(self, *, dies_after: float = float("inf"), before_batch=None, version="1"):
        self._inner = create_encoder("descriptor")
        self.name, self.version = "counting", version
        self.n_features, self.spatial_dims = self._inner.n_features, self._inner.spatial_dims
        self.n_encoded = 0
        self._dies_after = dies_after
        self._before_batch = before_batch

    def prepare(self, image):
        return self._inner.prepare(image)

    def encode(self, inputs):
        if self._before_batch is not None:
            self._before_batch(self.n_encoded)
        if self.n_encoded + len(inputs) > self._dies_after:
            raise Killed
        self.n_encoded += len(inputs)
        return self._inner.encode(inputs)


@pytest.fixture
def use_encoder(monkeypatch):
    def use(**kwargs):
        encoder = CountingEncoder(**kwargs)
        monkeypatch.setattr(work, "create_encoder", lambda *_, **__: encoder)
        return encoder

    return use


def _die(*_, **__):
    raise Killed


def with_vector(campaign):
    with campaign.store.reading() as session:
        return {image_id for (image_id,) in session.query(Image.image_id).filter(Image.vector.is_not(None))}


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(vectors, "COMMIT_EVERY", 8)


def test_killed_run_continues_with_what_is_missing(make_new, pictures, use_encoder, small_groups):
    campaign = make_new(embed_batch_size=4)
    campaign.sync(case.list_files(pictures), {})
    first = use_encoder(dies_after=20)
    with pytest.raises(Killed):
        campaign.embed()
    assert first.n_encoded == 20
    done = with_vector(campaign)
    assert len(done) == 16  # two groups of eight were written
    assert case.click(campaign).why["phase"] == "before_embedding"
    assert set(campaign.tasks_to_do()) == {"embedding"}
    second = use_encoder()
    assert campaign.embed() == N_ALL - 16
    assert second.n_encoded == N_ALL - 16
    assert len(planned(campaign)) == case.BUDGET - 1


def test_killed_run_gives_the_map_and_plan_of_an_undisturbed_one(
    make_new, pictures, use_encoder, small_groups, campaign, held_out_file
):
    disturbed = make_new(embed_batch_size=4, heldout=held_out_file)
    disturbed.sync(case.list_files(pictures), {})
    use_encoder(dies_after=12)
    with pytest.raises(Killed):
        disturbed.embed()
    use_encoder()
    disturbed.embed()
    wanted = {key: row.point for key, row in rows(campaign).items()}
    assert {key: row.point for key, row in rows(disturbed).items()} == wanted
    assert planned(disturbed) == planned(campaign)


def test_run_killed_between_map_and_plan_makes_the_plan_next_time(make_new, pictures, monkeypatch):
    campaign = make_new()
    campaign.sync(case.list_files(pictures), {})
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(drafting, "plan_cold_start", _die)
        campaign.embed()
    assert case.click(campaign).why["phase"] == "before_embedding"
    assert set(campaign.tasks_to_do()) == {"embedding"}
    assert campaign.embed() == 0
    assert len(planned(campaign)) == case.BUDGET - 1


def test_image_replaced_while_it_is_embedded_is_embedded_again(make_new, pictures, use_encoder, tmp_path):
    campaign = make_new(embed_batch_size=4)
    files = case.list_files(pictures)
    campaign.sync(files, {})
    other = case.draw_image(tmp_path / "other.png", 20, seed=99)

    def replace_once(n_encoded):
        if n_encoded == 8:
            campaign.sync(files | {"p00": other}, {})

    use_encoder(before_batch=replace_once)
    campaign.embed()
    assert "p00" not in with_vector(campaign)
    assert set(campaign.tasks_to_do()) == {"embedding"}
    assert campaign.embed() == 1
    assert with_vector(campaign) == set(files)


def test_clicks_are_answered_while_images_are_embedded(make_new, pictures, use_encoder):
    campaign = make_new(embed_batch_size=8)
    campaign.sync(case.list_files(pictures), {})
    seen = []
    use_encoder(before_batch=lambda _: seen.append(case.click(campaign)))
    campaign.embed()
    assert len(seen) >= 4
    assert {sample.why["phase"] for sample in seen} == {"before_embedding"}
    assert not {sample.image_id for sample in seen} & set(planned(campaign))


def test_new_version_of_an_encoder_makes_new_vectors_and_another_map(make_new, pictures, use_encoder):
    campaign = make_new(encoder="hf:lab/a")
    campaign.sync(case.list_files(pictures), {})
    use_encoder(version="1")
    campaign.embed()
    served = case.clicks(campaign, 2)
    assert case.newest_map(campaign).encoder == "counting 1"
    other = make_new(encoder="hf:lab/b")
    assert set(other.tasks_to_do()) == {"embedding"}
    renewed = use_encoder(version="2")
    assert other.embed() == renewed.n_encoded == N_ALL
    current = case.newest_map(other)
    assert current.encoder == "counting 2"
    assert {row.map_id for row in rows(other).values()} == {current.id}
    assert planned(other)[:2] == served
    assert other.tasks_to_do() == {}


def test_other_name_for_the_same_encoder_keeps_the_map(make_new, pictures, use_encoder):
    """`auto` and the encoder that it found are the same thing."""
    campaign = make_new(encoder="auto")
    campaign.sync(case.list_files(pictures), {})
    use_encoder()
    campaign.embed()
    before = case.newest_map(campaign).id
    other = make_new(encoder="radimagenet")
    assert set(other.tasks_to_do()) == {"embedding"}
    assert use_encoder().n_encoded == 0
    assert other.embed() == 0
    assert case.newest_map(other).id == before
    assert other.tasks_to_do() == {}


def test_progress_is_written_for_whoever_waits(campaign, make_new, pictures):
    other = make_new()
    other.sync(case.list_files(pictures), {})
    other.embed()
    assert other.status()["progress"]["embedding"] == {"done": N_ALL, "total": N_ALL, "message": "encoder descriptor"}


def test_fingerprint_of_the_work_changes_with_the_images(make_new, pictures):
    files = case.list_files(pictures)
    campaign = make_new()
    campaign.sync({"p00": files["p00"]}, {})
    before = campaign.tasks_to_do()
    assert campaign.tasks_to_do() == before
    campaign.sync(files, {})
    assert campaign.tasks_to_do() != before


def test_same_seed_gives_the_same_map_and_plan(make_new, pictures, tmp_path):
    results = []
    for name in ("one", "two"):
        campaign = Campaign(case.make_settings(projection="tsne"), tmp_path / name)
        campaign.sync(case.list_files(pictures), {})
        campaign.embed()
        results.append((planned(campaign), [row.point for row in rows(campaign).values()]))
        campaign.store.close()
    assert results[0] == results[1]
    assert np.isfinite(np.frombuffer(results[0][1][0])).all()


def test_image_replaced_while_the_map_is_made_is_not_put_on_it(make_new, pictures, monkeypatch, tmp_path):
    campaign = make_new()
    files = case.list_files(pictures)
    campaign.sync(files, {})
    other, original = case.draw_image(tmp_path / "other.png", 20, seed=99), planning.fit_projection

    def fit_and_replace(*args, **kwargs):
        campaign.sync(files | {"p00": other}, {})
        return original(*args, **kwargs)

    monkeypatch.setattr(planning, "fit_projection", fit_and_replace)
    campaign.embed()
    assert rows(campaign)["p00"].point is None
    assert campaign.embed() == 1
    assert rows(campaign)["p00"].point is not None


def test_seed_and_largest_number_of_clusters_reach_every_random_stage(make_new, pictures, monkeypatch):
    asked = {}

    def spy(module, name):
        original = getattr(module, name)

        def called(*args, **kwargs):
            asked[name] = kwargs
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, called)

    spy(planning, "fit_projection")
    spy(drafting, "plan_cold_start")
    files = case.list_files(pictures)
    campaign = make_new(random_state=5, k_max=3)
    campaign.sync({key: path for key, path in files.items() if key != "p00"}, {})
    campaign.embed()
    campaign.sync(files, {})
    campaign.embed()
    assert {name: kwargs["random_state"] for name, kwargs in asked.items()} == dict.fromkeys(asked, 5)
    assert len(asked) == 2
    assert case.newest_map(campaign).random_state == 5
    assert set(case.plan(campaign).silhouettes) == {"2", "3"}


def test_image_placed_later_belongs_to_the_cluster_of_its_nearest_neighbour(campaign, pictures, tmp_path):
    before = rows(campaign)
    assert len({row.cluster for row in before.values()} - {None}) > 1
    for key in ("p00", "p01", "p02"):  # one of each look
        files = case.list_files(pictures) | {"twin": pictures / f"{key}.png"}
        campaign.sync(case.list_files(pictures), {})
        campaign.sync(files, {})
        with campaign.store.writing() as session:
            session.query(Image).filter_by(image_id="twin").one().forget_content()
        campaign.embed()
        assert rows(campaign)["twin"].cluster == before[key].cluster


def test_replaced_image_goes_on_placing_new_ones_on_the_map_that_it_made(make_new, pictures, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(pictures, folder)
    campaign = make_new(projection="pca")
    campaign.sync(case.list_files(folder), {})
    campaign.embed()
    twin_of = case.point(rows(campaign)["p05"])
    case.draw_image(folder / "p01.png", 1, seed=99)
    shutil.copyfile(folder / "p05.png", folder / "twin.png")
    campaign.sync(case.list_files(folder), {})
    campaign.embed()
    assert np.allclose(case.point(rows(campaign)["twin"]), twin_of, atol=1e-6)
