"""Exports hold the run's maps unchanged; ViRelAy's files keep every rule that its reader has."""

import json

import numpy as np
import pytest
import yaml
from fake_runs import ARRAYS, CAM, IG, fake_run
from PIL import Image

from jobs.export import ExportError, export

DONE = [row for row in range(12) if row != 5]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("export"), 12, shard_length=5)


def test_npz(run, tmp_path):
    seen = []
    paths = export(run, tmp_path, "npz", progress=seen.append)
    assert [path.name for path in paths] == [f"{spec.group}.npz" for spec in ARRAYS]
    assert sum(seen) == 3 * len(DONE)
    for spec, path in zip(ARRAYS, paths, strict=True):
        with np.load(path) as archive:
            assert archive["image"].tolist() == DONE
            assert archive["key"][2] == "photo-00002.jpg"
            assert str(archive["expression"]) == spec.expression
            assert np.array_equal(archive["attribution"], run.attributions(spec.group)[DONE])


def test_npy_maps_memory_row_by_row(run, tmp_path):
    export(run, tmp_path, "npy")
    whole = np.load(tmp_path / f"{IG.group}.npy", mmap_mode="r")
    assert np.array_equal(whole, run.attributions(IG.group)[:], equal_nan=True)
    assert np.isnan(whole[5]).all()
    assert json.loads((tmp_path / f"{IG.group}.json").read_text())["keys"][5] == "photo-00005.jpg"


def test_png_has_one_picture_an_image(run, tmp_path):
    export(run, tmp_path, "png")
    for spec in ARRAYS:
        files = sorted((tmp_path / spec.group).iterdir())
        assert [int(file.stem) for file in files] == DONE
        with Image.open(files[0]) as picture:
            assert picture.size == spec.shape[-1:-3:-1]


def test_refusals_name_what_works(run, tmp_path):
    with pytest.raises(ExportError, match="format 'tiff' is none of npz, npy, png, hdf5-virelay"):
        export(run, tmp_path, "tiff")
    with pytest.raises(ExportError, match="summaries and no maps"):
        export(fake_run(tmp_path / "none", 4, store="none"), tmp_path, "npz")


@pytest.fixture(scope="module")
def project(run, tmp_path_factory):
    pytest.importorskip("h5py", reason="needs the export extra's h5py")
    folder = tmp_path_factory.mktemp("virelay")
    export(run, folder, "hdf5-virelay")
    return folder


@pytest.mark.parametrize("spec", ARRAYS, ids=lambda spec: spec.group)
def test_virelay_finds_each_map_by_the_number_of_its_image(run, project, spec):
    import h5py

    with h5py.File(project / f"{spec.group}-attributions.h5") as file:
        assert file["index"][:].tolist() == DONE
        for image in (0, 11):
            position = int(np.where(image == file["index"][:])[0][0])  # as its reader looks
            values = file["attribution"][position]
            assert values.ndim == 3
            assert np.argmin(values.shape) == 0  # else it takes rows for channels
            assert values.shape[0] > 1  # else its plain heat map fails
            assert np.allclose(values.sum(axis=0), run.attributions(spec.group)[image].sum(axis=0), rtol=1e-5)
            assert file["prediction"][position].argmax() in range(4)


def test_virelay_knows_every_label_it_meets(project):
    import h5py

    known = {label["index"]: label for label in json.loads((project / "label-map.json").read_text())}
    with h5py.File(project / "dataset.h5") as dataset, h5py.File(project / f"{IG.group}-attributions.h5") as maps:
        assert set(dataset["label"][:].tolist()) | set(maps["label"][:].tolist()) <= set(known)
        assert dataset["data"].dtype == np.uint8
        assert dataset["data"].shape == (12, 3, 48, 48)
    assert known[-1]["name"] == "no label"
    assert known[3]["name"] == "<b>owl</b>"


def test_virelay_project_points_at_files_that_are_there(project):
    for spec in ARRAYS:
        told = yaml.safe_load((project / f"{spec.group}.yaml").read_text())["project"]
        named = [
            told["label_map"],
            told["dataset"]["path"],
            *told["attributions"]["sources"],
            *told["analyses"][0]["sources"],
        ]
        assert all((project / name).exists() for name in named)
        assert told["dataset"]["type"] == "hdf5"
        assert told["attributions"]["attribution_strategy"] in {"true_label", "predicted_label"}


def test_virelay_analysis_covers_each_image_once(project):
    import h5py

    words = {label["word_net_id"] for label in json.loads((project / "label-map.json").read_text())}
    with h5py.File(project / f"{CAM.group}-analysis.h5") as file:
        assert set(file) <= words
        images = sorted(image for category in file.values() for image in category["index"][:].tolist())
        assert images == DONE
        for category in file.values():
            count = len(category["index"])
            assert category["embedding/pca"].shape == (count, 2)
            assert category["cluster/prediction"].shape == (count,)
            assert category["embedding/pca"].attrs["eigenvalue"].ndim == 1
