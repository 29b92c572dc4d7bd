"""The torch Dataset gives the pixels, the map and the summary row of one and the same image, in any worker."""

import pickle

import numpy as np
import pytest
import torch
from fake_runs import CAM, IG, fake_run
from torch.utils.data import DataLoader

from jobs.dataset import AttributionDataset
from storage.errors import StoreError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fake_run(tmp_path_factory.mktemp("dataset"), 12, shard_length=5)


def test_items_are_the_finished_images_in_order(run):
    dataset = AttributionDataset(run, IG.group)
    assert len(dataset) == 11
    assert [dataset[i][2]["image"] for i in range(11)] == [i for i in range(12) if i != 5]
    pixels, attribution, row = dataset[5]
    assert (row["image"], row["method"]) == (6, IG.expression)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 48, 48)
    assert np.array_equal(attribution.numpy(), run.attributions(IG.group)[6])
    assert torch.equal(dataset[-1][1], dataset[10][1])


def test_it_ends_where_its_length_says(run):
    with pytest.raises(IndexError, match="item 11 of 11"):
        AttributionDataset(run, IG.group)[11]
    with pytest.raises(StoreError, match="no 'lrp'"):
        AttributionDataset(run, "lrp")


def test_it_travels_to_workers_by_its_address(run):
    dataset = AttributionDataset(run.uri, CAM.expression)
    assert len(pickle.dumps(dataset)) < 1000
    batches = list(DataLoader(dataset, batch_size=4, num_workers=1))
    assert sum(len(attribution) for _, attribution, _ in batches) == 11
    assert batches[0][0].shape == (4, 3, 48, 48)
