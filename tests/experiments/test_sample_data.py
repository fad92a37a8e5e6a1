import itertools
from collections import Counter
from pathlib import Path

import nrrd
import numpy as np
import pytest

from coldstart.embedding import create_encoder, embed_files
from coldstart.exceptions import InvalidInputError
from coldstart.experiments.sample_data import generate_sample_data, read_manifest
from coldstart.images import describe_mismatch, read_image, read_label
from coldstart.projection import fit_projection
from coldstart.selection import plan_cold_start

BUDGET = 10
MAX_BYTES = 5 * 10**6


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample-data")
    generate_sample_data(folder)
    return folder


@pytest.fixture(scope="module")
def committed(repository: Path) -> Path:
    return repository / "sample-data"


def files_below(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


# ---- the files


def test_committed_files_are_what_the_generator_writes(generated: Path, committed: Path) -> None:
    assert files_below(committed) == files_below(generated)
    for name in files_below(generated):
        if name.suffix != ".nrrd":
            assert (committed / name).read_bytes() == (generated / name).read_bytes(), name
            continue
        # Pixels and header, not bytes: another version of zlib may pack the same pixels into other bytes.
        ours, header = nrrd.read(str(generated / name))
        theirs, their_header = nrrd.read(str(committed / name))
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(theirs, ours, err_msg=str(name))
        assert str(their_header) == str(header)


def test_two_runs_write_the_same_bytes(generated: Path, tmp_path: Path) -> None:
    paths = generate_sample_data(tmp_path)
    assert sorted(path.relative_to(tmp_path) for path in paths) == files_below(generated)
    for name in files_below(generated):
        assert (tmp_path / name).read_bytes() == (generated / name).read_bytes(), name


def test_no_file_carries_a_date(generated: Path) -> None:
    for name in files_below(generated):
        if name.suffix == ".nrrd":
            content = (generated / name).read_bytes()
            head, data = content.split(b"\n\n", 1)
            assert b"#" not in head
            assert data[4:8] == bytes(4), "gzip keeps a modification time"


def test_everything_stays_below_five_megabytes(committed: Path) -> None:
    assert sum((committed / name).stat().st_size for name in files_below(committed)) <= MAX_BYTES


def test_folder_that_cannot_be_written_and_bad_seed_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="`folder` must be a folder that can be written"):
        generate_sample_data(tmp_path / "file")
    with pytest.raises(InvalidInputError, match="`random_state` must be 0 or more; got -1"):
        generate_sample_data(tmp_path, random_state=-1)


# ---- radiographs


def test_radiographs_are_60_of_which_12_of_all_groups_are_held_out(committed: Path) -> None:
    images = read_manifest(committed / "chest" / "manifest.csv")
    pool = Counter(image.group for image in images if not image.heldout)
    heldout = [image for image in images if image.heldout]
    assert len(images) == len({image.image_id for image in images}) == 60
    assert len(heldout) == 12
    assert {image.group for image in heldout} == set(pool)
    assert 5 <= len(pool) <= 7
    assert max(pool.values()) >= 3 * min(pool.values())
    assert (committed / "chest" / "heldout.txt").read_text().split() == [image.image_id for image in heldout]
    assert {path.stem for path in (committed / "chest").glob("*.nrrd")} == {image.image_id for image in images}


def test_ids_tell_nothing_about_the_groups(committed: Path) -> None:
    groups = [image.group for image in read_manifest(committed / "chest" / "manifest.csv")]
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    assert changes > 35  # sorted by group there would be 6


def test_radiographs_have_labels_of_three_organs_on_their_pixels(committed: Path) -> None:
    for image in read_manifest(committed / "chest" / "manifest.csv"):
        picture = read_image(committed / "chest" / f"{image.image_id}.nrrd")
        label = read_label(committed / "chest" / "groundtruth" / f"{image.image_id}.nrrd")
        assert picture.pixels.shape == (1, 192, 192)
        assert picture.spacing_mm == pytest.approx((1.9, 1.9))
        assert describe_mismatch(picture.geometry, label.geometry) is None
        assert np.unique(label.values).tolist() == [0, 1, 2, 3]
        columns = np.indices(label.values.shape)[1]
        right, left, heart = (columns[label.values == value].mean() for value in (1, 2, 3))
        assert right < heart < left  # the patient's right lung is on the left of the picture
        assert min((label.values == value).mean() for value in (1, 2, 3)) > 0.005


def test_lungs_are_darker_than_the_heart_but_not_under_opacities(committed: Path) -> None:
    contrast: dict[str, list[float]] = {}
    for image in read_manifest(committed / "chest" / "manifest.csv"):
        pixels = read_image(committed / "chest" / f"{image.image_id}.nrrd").pixels[0]
        values = read_label(committed / "chest" / "groundtruth" / f"{image.image_id}.nrrd").values
        contrast.setdefault(image.group, []).append(
            float(pixels[values == 3].mean() - pixels[(values == 1) | (values == 2)].mean())
        )
    middle = {group: float(np.median(values)) for group, values in contrast.items()}
    assert min(middle.values()) > 15.0
    assert middle["opacities"] < 0.7 * middle["standard"]
    assert middle["large_body"] < 0.8 * middle["standard"]


# ---- why selection matters


@pytest.fixture(scope="module")
def pool(committed: Path) -> tuple[np.ndarray, np.ndarray]:
    """Descriptor vectors and groups of the 48 images that are not held out."""
    images = [image for image in read_manifest(committed / "chest" / "manifest.csv") if not image.heldout]
    paths = [committed / "chest" / f"{image.image_id}.nrrd" for image in images]
    vectors = [vector for _, vector in embed_files(create_encoder("descriptor"), paths, spatial_dims=2)]
    return np.stack(vectors), np.array([image.group for image in images])


@pytest.mark.parametrize("random_state", range(5))
def test_cold_start_of_10_covers_all_groups(pool: tuple[np.ndarray, np.ndarray], random_state: int) -> None:
    vectors, groups = pool
    points = fit_projection(vectors, "tsne", random_state=random_state)
    plan = plan_cold_start(points, BUDGET, random_state=random_state)
    assert set(groups[plan.indices]) == set(groups)


def test_cold_start_covers_all_groups_in_any_order_of_the_files(pool: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, groups = pool
    for seed in (1, 2):
        order = np.random.default_rng(seed).permutation(len(groups))
        plan = plan_cold_start(fit_projection(vectors[order], "tsne"), BUDGET)
        assert set(groups[order][plan.indices]) == set(groups)


def test_ten_random_images_miss_a_group_nine_times_in_ten(pool: tuple[np.ndarray, np.ndarray]) -> None:
    _, groups = pool
    n_groups = len(set(groups))
    rng = np.random.default_rng(0)
    covered = [len(set(groups[rng.choice(len(groups), BUDGET, replace=False)])) for _ in range(2000)]
    assert np.mean(np.array(covered) == n_groups) < 0.12
    assert np.mean(covered) < n_groups - 1.0


def test_groups_look_different(pool: tuple[np.ndarray, np.ndarray]) -> None:
    """Nearest neighbours are of the same group, far more often than chance (about one in five) would have it."""
    vectors, groups = pool
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    same = groups[distances.argmin(axis=1)] == groups
    assert all(same[groups == group].mean() >= 0.75 for group in set(groups))


# ---- volumes


def test_volumes_are_16_with_two_labels_in_unequal_groups(committed: Path) -> None:
    images = read_manifest(committed / "volumes" / "manifest.csv")
    assert len(images) == 16
    assert sorted(Counter(image.group for image in images).values()) == [3, 5, 8]
    for image in images:
        volume = read_image(committed / "volumes" / f"{image.image_id}.nrrd")
        label = read_label(committed / "volumes" / "groundtruth" / f"{image.image_id}.nrrd")
        assert volume.pixels.shape == (1, 48, 40, 32)
        assert describe_mismatch(volume.geometry, label.geometry) is None
        assert np.unique(label.values).tolist() == [0, 1, 2]
        assert volume.pixels.min() >= -1000
        organ = label.values > 0
        assert np.argwhere(organ).mean(axis=0)[0] > 23.5  # on the patient's right: x increases to the right
        assert np.count_nonzero(label.values == 2) > 20


def test_spacings_and_storage_orders_differ(committed: Path) -> None:
    geometries = [read_image(path).geometry for path in sorted((committed / "volumes").glob("*.nrrd"))]
    assert len({geometry.spacing_mm for geometry in geometries}) == 3
    assert any(len(set(geometry.spacing_mm)) > 1 for geometry in geometries)
    sideways = [geometry for geometry in geometries if geometry.axes != (0, 1, 2)]
    assert len(sideways) == 1
    assert sideways[0].size == (40, 32, 48)


def test_the_spine_is_behind_the_organ_in_every_volume(committed: Path) -> None:
    """Also in the one stored sideways: its directions say where its voxels are."""
    for path in sorted((committed / "volumes").glob("*.nrrd")):
        pixels = read_image(path).pixels[0]
        bone = np.argwhere(pixels > 250).mean(axis=0)
        assert bone[1] < 14  # y increases to anterior
        assert abs(bone[0] - 23.5) < 4
