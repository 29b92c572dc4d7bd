"""Promises: ImageNet's validation set has the same keys and the right classes in every form that people have it in."""

import pytest
from pictures import labels, make_tar, numbers, picture, write

from jobs.datasets import DatasetError, index_dataset
from jobs.indexing.imagenet_classes import class_names, label_of_ilsvrc_id, label_of_wnid

TENCH = "n01440764"  # class 0


class TestImageNet:
    NAMES = tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3))
    # The development kit's first three lines: sea snake, alp, Shetland sheepdog.
    GROUND_TRUTH = "490\n361\n171\n"
    LABELS = (65, 970, 230)

    def expect(self, dataset, source):
        assert labels(dataset.index) == dict(zip(self.NAMES, self.LABELS, strict=True))
        assert numbers(dataset.index) == [0, 1, 2]
        assert dataset.name == "imagenet-val"
        assert dataset.label_source == source
        assert dataset.class_names[65] == "sea snake"
        assert "non-commercial" in dataset.licence

    def wnids(self):
        by_label = {label: wnid for wnid, label in label_of_wnid().items()}
        return [by_label[label] for label in self.LABELS]

    @pytest.mark.parametrize("below", ["val", "", "ILSVRC/Data/CLS-LOC/val"])
    def test_folders_by_wnid(self, tmp_path, below):
        write(tmp_path / below, *(f"{wnid}/{name}" for wnid, name in zip(self.wnids(), self.NAMES, strict=True)))
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "class folders (ImageNet wnids)")

    def test_the_root_may_come_from_the_environment(self, tmp_path, monkeypatch):
        write(tmp_path / "val", *(f"{wnid}/{name}" for wnid, name in zip(self.wnids(), self.NAMES, strict=True)))
        monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path))
        self.expect(index_dataset("imagenet-val"), "class folders (ImageNet wnids)")

    @pytest.mark.parametrize("place", ["", "devkit/data", "ILSVRC2012_devkit_t12/data"])
    def test_flat_with_the_kits_ground_truth(self, tmp_path, place):
        """Its numbers are the kit's own (1 to 1000, not in sorted order): off by this, accuracy is 0.1 %."""
        write(tmp_path / "val", *self.NAMES)
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "ILSVRC2012_validation_ground_truth.txt").write_text(self.GROUND_TRUTH)
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "ILSVRC2012_validation_ground_truth.txt")

    def test_flat_with_a_label_file_in_torchvisions_order(self, tmp_path):
        write(tmp_path, *self.NAMES)
        (tmp_path / "val.txt").write_text(
            "".join(f"{name} {label}\n" for name, label in zip(self.NAMES, self.LABELS, strict=True))
        )
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "val.txt")

    def test_flat_with_a_labels_csv(self, tmp_path):
        write(tmp_path / "val", *self.NAMES)
        rows = "".join(f"{name},{label}\n" for name, label in zip(self.NAMES, self.LABELS, strict=True))
        (tmp_path / "labels.csv").write_text(f"key,label\n{rows}")
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "labels.csv")

    def test_kaggles_copy(self, tmp_path):
        write(tmp_path / "ILSVRC/Data/CLS-LOC/val", *self.NAMES)
        rows = "".join(f"{name[:-5]},{wnid} 1 2 30 40 \n" for name, wnid in zip(self.NAMES, self.wnids(), strict=True))
        (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")
        self.expect(index_dataset("imagenet-val", data_root=str(tmp_path)), "LOC_val_solution.csv")

    @pytest.mark.parametrize("given_as", ["root", "tar"])
    def test_the_original_tar_is_read_in_place(self, tmp_path, given_as):
        tar = make_tar(tmp_path / "ILSVRC2012_img_val.tar", {name: picture(n) for n, name in enumerate(self.NAMES)})
        (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text(self.GROUND_TRUTH)
        dataset = index_dataset("imagenet-val", data_root=str(tmp_path if given_as == "root" else tar))
        self.expect(dataset, "ILSVRC2012_validation_ground_truth.txt")
        assert set(dataset.index["uri"].to_pylist()) == {str(tar)}

    def test_without_labels_it_is_still_a_data_set(self, tmp_path):
        write(tmp_path / "val", *self.NAMES)
        dataset = index_dataset("imagenet-val", data_root=str(tmp_path))
        assert dataset.label_source is None
        assert dataset.index["label"].null_count == 3

    def test_the_training_set_beside_it_is_not_taken_for_it(self, tmp_path):
        write(tmp_path / "train", f"{TENCH}/n01440764_1.JPEG")
        with pytest.raises(DatasetError, match=r"nothing in .* looks like it; understood layouts"):
            index_dataset("imagenet-val", data_root=str(tmp_path))

    def test_without_a_root_one_line_says_what_to_set_and_which_layouts_are_understood(self, monkeypatch):
        monkeypatch.delenv("IMAGENET_ROOT", raising=False)
        with pytest.raises(DatasetError) as error:
            index_dataset("imagenet-val")
        for part in ("--data-root", "IMAGENET_ROOT", "val/<wnid>/*.JPEG", "ILSVRC2012_img_val.tar", "ground_truth.txt"):
            assert part in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("file", "text", "reason"),
        [
            ("ILSVRC2012_validation_ground_truth.txt", "490\n0\n", "'0' is no ImageNet class in the numbering"),
            ("val.txt", "ILSVRC2012_val_00000001.JPEG 1000\n", "'1000' is no ImageNet class"),
            ("val.txt", "65\n970\n", "each line must be 'file name, space, class index from 0'"),
        ],
    )
    def test_a_wrong_label_file_is_one_line(self, tmp_path, file, text, reason):
        write(tmp_path / "val", *self.NAMES)
        (tmp_path / file).write_text(text)
        with pytest.raises(DatasetError, match=reason):
            index_dataset("imagenet-val", data_root=str(tmp_path))

    def test_a_folder_that_is_no_class_is_named(self, tmp_path):
        write(tmp_path / "val", f"{TENCH}/a.JPEG", "n99999999/b.JPEG")
        with pytest.raises(DatasetError, match=r"n99999999/b.JPEG does not lie in a folder of an ImageNet class"):
            index_dataset("imagenet-val", data_root=str(tmp_path))

    def test_the_thousand_classes(self):
        wnids = list(label_of_wnid())
        assert wnids == sorted(wnids)  # why class folders in sorted order have the right index
        assert len(set(wnids)) == len(class_names()) == 1000
        assert sorted(label_of_ilsvrc_id()) == list(range(1, 1001))
        assert sorted(label_of_ilsvrc_id().values()) == list(range(1000))
        for number, name in ((1, "kit fox"), (490, "sea snake"), (1000, "dumbbell")):
            assert class_names()[label_of_ilsvrc_id()[number]] == name

    def test_the_classes_are_those_of_torchvision_and_timm(self):
        from jobs.torchvision_shim import torchvision

        assert class_names() == tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])
        timm = pytest.importorskip("timm", reason="the timm extra is not installed")
        assert tuple(timm.data.ImageNetInfo("imagenet-1k").label_names()) == tuple(label_of_wnid())
