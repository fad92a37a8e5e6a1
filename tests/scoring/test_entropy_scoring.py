import math
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from coldstart.exceptions import ImageError, InvalidInputError, ModelError
from coldstart.images import read_image
from coldstart.scoring import batch_entropy, decoding_threads, score_entropy
from coldstart.scoring.entropy import N_IN_FLIGHT, mean_entropy
from coldstart.segmentation import Model, TrainingConfig, build_network, faster, predict_prepared, predict_probabilities
from coldstart.segmentation import prepare_image as prepare
from coldstart.selection import image_entropy


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Model:
    config = TrainingConfig(
        label_names=("a", "b"), spatial_dims=2, spatial_size=(32, 32), channels=(4, 8, 16), device="cpu"
    )
    network = build_network(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # untrained, but with something to say
    return Model(network, {"version": "v", "label_names": ["a", "b"], "config": config.to_dict()})


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pool")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(11):
        path = folder / f"image{i}.png"
        smooth = np.kron(rng.integers(0, 255, (3 + i, 4)), np.ones((8, 8)))
        PillowImage.fromarray(smooth.astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def scores(model, paths, **options):
    values = {"spatial_dims": 2, "batch_size": 4, "prepare": partial(prepare, config=model.config)} | options
    return list(score_entropy(partial(predict_prepared, model), paths, **values))


class TestBatchEntropy:
    def test_by_hand(self):
        # one certain pixel: 0; one of (1/2, 1/4, 1/4): 1.5 ln 2; the mean of both
        probabilities = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.25]], [[0.0, 0.25]]]])
        assert batch_entropy(probabilities) == pytest.approx([0.75 * math.log(2)], abs=1e-6)

    def test_uniform_is_the_logarithm_of_the_classes(self):
        uniform = np.full((2, 4, 3, 3, 3), 0.25, dtype=np.float32)
        assert batch_entropy(uniform) == pytest.approx([math.log(4)] * 2, abs=1e-6)

    def test_equals_the_selections_image_entropy(self):
        selection = pytest.importorskip("coldstart.selection")
        for shape in ((2, 16, 12), (5, 8, 8, 8)):
            probabilities = np.random.default_rng(0).dirichlet(np.full(shape[0], 0.2), (3, *shape[1:]))
            batch = np.moveaxis(probabilities, -1, 1).astype(np.float32)
            expected = [selection.image_entropy(one) for one in batch]
            assert batch_entropy(batch) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("n_classes", [2, 3, 40])
    @pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
    def test_float32_is_enough_for_a_millionth(self, n_classes, scale):
        logits = scale * torch.randn(3, n_classes, 64, 64, generator=torch.Generator().manual_seed(0))
        probabilities = torch.softmax(logits, dim=1)
        found = mean_entropy(probabilities)
        assert found.dtype == torch.float64
        expected = [image_entropy(one) for one in probabilities.numpy()]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)

    def test_what_is_given_stays_as_it_is(self):
        probabilities = torch.softmax(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), dim=1)
        before = probabilities.clone()
        mean_entropy(probabilities)
        assert torch.equal(probabilities, before)

    def test_eps_is_within_the_logarithm(self):
        assert batch_entropy(np.full((1, 2, 1), 0.5), eps=0.5) == pytest.approx([0.0], abs=1e-12)


class TestScoreEntropy:
    def test_every_image_gets_the_entropy_of_its_own_prediction(self, model, pool):
        result = scores(model, pool)
        assert [index for index, _ in result] == list(range(11))
        for index, value in result:
            expected = batch_entropy(predict_probabilities(model, [read_image(pool[index])]))[0]
            assert value == pytest.approx(expected, abs=1e-6)
        values = [value for _, value in result]
        assert max(values) - min(values) > 1e-3

    @pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3, "n_threads": 1}, {"batch_size": 64}])
    def test_batches_and_threads_do_not_change_the_scores(self, model, pool, options):
        expected = [value for _, value in scores(model, pool)]
        assert [value for _, value in scores(model, pool, **options)] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("form", [lambda model: model, faster])
    def test_scores_are_the_definitions_for_the_network_as_it_was_trained(self, model, pool, form):
        result = list(
            score_entropy(
                partial(predict_prepared, form(model)),
                pool,
                spatial_dims=2,
                prepare=partial(prepare, config=model.config),
            )
        )
        assert [index for index, _ in result] == list(range(len(pool)))
        for index, value in result:
            probabilities = predict_probabilities(model, [read_image(pool[index])])[0]
            assert value == pytest.approx(image_entropy(probabilities), abs=1e-6)

    def test_half_precision_is_brought_to_float32_first(self, pool):
        # in half precision 1 - 1e-4 is 1 and epsilon is 0: the entropy would be 0, or no number
        half = torch.tensor([1, 1e-4], dtype=torch.float16).reshape(1, 2, 1)
        result = list(score_entropy(lambda images: half.expand(len(images), 2, 1), pool[:2], spatial_dims=2))
        assert [value for _, value in result] == pytest.approx([image_entropy(half[0].float())] * 2, abs=1e-6)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    @pytest.mark.parametrize("n_images", [3, 11 * (N_IN_FLIGHT + 2)])
    def test_gpu_gives_the_same_scores_in_the_same_order(self, model, pool, tmp_path, n_images):
        paths = ([tmp_path / "absent.png", *pool] * n_images)[:n_images]
        on_gpu = Model(build_network(model.config).cuda(), model.metadata)
        on_gpu.network.load_state_dict(model.network.state_dict())
        calls = []
        found = scores(on_gpu, paths, batch_size=2, progress=lambda *done: calls.append(done))
        expected = scores(model, paths)
        assert [index for index, _ in found] == list(range(n_images))
        assert calls[-1] == (n_images, n_images)
        for (_, ours), (_, theirs) in zip(found, expected, strict=True):
            assert type(ours) is type(theirs)
            assert isinstance(ours, ImageError) or ours == pytest.approx(theirs, abs=1e-3)

    def test_without_prepare_predict_gets_the_images(self, model, pool):
        result = list(score_entropy(partial(predict_probabilities, model), pool, spatial_dims=2))
        assert [value for _, value in result] == pytest.approx([value for _, value in scores(model, pool)], abs=1e-6)

    @pytest.mark.parametrize("batch_size", [1, 2, 5])
    def test_unusable_images_yield_their_error_and_the_others_go_on(self, model, pool, tmp_path, batch_size):
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"nothing")
        paths = [broken, pool[0], tmp_path / "absent.png", pool[1], broken]
        result = scores(model, paths, batch_size=batch_size)
        assert [index for index, _ in result] == [0, 1, 2, 3, 4]
        assert [isinstance(value, ImageError) for _, value in result] == [True, False, True, False, True]
        assert "broken.png" in str(result[0][1])
        assert "absent.png" in str(result[2][1])
        alone = scores(model, pool[:2])
        assert [result[1][1], result[3][1]] == pytest.approx([alone[0][1], alone[1][1]], abs=1e-6)

    def test_image_of_other_dimensions_yields_its_error(self, model, pool):
        result = scores(model, pool[:1], spatial_dims=3)
        assert "scores 3D images; image0.png is 2D" in str(result[0][1])

    def test_progress_counts_all_images(self, model, pool):
        calls = []
        scores(model, pool, progress=lambda done, total: calls.append((done, total)))
        assert calls == [(4, 11), (8, 11), (11, 11)]

    def test_empty_pool_gives_nothing(self, model):
        assert scores(model, []) == []

    def test_few_images_are_in_memory_however_slow_the_consumer(self, pool):
        prepared = []
        lock = threading.Lock()

        def count(image):
            with lock:
                prepared.append(image)
            return image

        def predict(images):
            return np.full((len(images), 2, 4, 4), 0.5)

        stream = score_entropy(predict, pool, spatial_dims=2, prepare=count, batch_size=2, n_threads=1)
        next(stream)
        time.sleep(0.3)
        assert len(prepared) <= 2 + 2
        stream.close()

    def test_stopping_early_stops_the_decoding(self, pool):
        stream = score_entropy(
            lambda images: np.full((len(images), 2, 4), 0.5), pool * 20, spatial_dims=2, batch_size=1, n_threads=2
        )
        next(stream)
        before = threading.active_count()
        stream.close()
        assert threading.active_count() < before

    def test_prediction_that_is_not_finite_is_refused(self, pool):
        with pytest.raises(ModelError, match=r"prediction for image0.png is not finite"):
            list(score_entropy(lambda images: np.full((len(images), 2, 4), np.nan), pool, spatial_dims=2))

    @pytest.mark.parametrize("name", ["batch_size", "n_threads"])
    def test_numbers_below_one_are_refused_at_once(self, pool, name):
        with pytest.raises(InvalidInputError, match=f"`{name}` must be at least 1; got 0"):
            score_entropy(lambda images: images, pool, spatial_dims=2, **{name: 0})


@pytest.mark.parametrize(
    ("spatial_dims", "n_cpus", "gib_left", "expected"),
    [
        (2, 16, 64, 8),
        (2, 5, 64, 5),
        (2, 1, 64, 2),  # one reads from the disk while the other decodes
        (2, 16, 3, 3),
        (2, 16, 0, 2),
        (3, 16, 64, 2),
    ],
)
def test_files_are_decoded_by_as_many_threads_as_there_are_cpus_and_memory_for(
    monkeypatch, spatial_dims, n_cpus, gib_left, expected
):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(n_cpus)))
    monkeypatch.setattr("coldstart.scoring.entropy.available_memory", lambda: gib_left << 30)
    assert decoding_threads(spatial_dims) == expected
