"""Promises: the crop is torchvision's to the bit, and no picture makes it fill the memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, lean_environment, photograph, torchvision_crop

from jobs.images import Preprocessing, decode
from jobs.torchvision_shim import torchvision


class TestCrop:
    @settings(max_examples=150, deadline=None)
    @given(
        size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
        resize=st.one_of(st.none(), st.integers(1, 70), st.tuples(st.integers(1, 70), st.integers(1, 70))),
        crop=st.tuples(st.integers(1, 70), st.integers(1, 70)),
        interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
    )
    def test_equals_torchvision_to_the_bit(self, size, resize, crop, interpolation):
        preprocessing = Preprocessing(resize=resize, crop=crop, interpolation=interpolation)
        image = photograph(*size)
        assert np.array_equal(decode(encoded(image), preprocessing), torchvision_crop(image, preprocessing))

    @pytest.mark.parametrize("size", [(640, 427), (427, 640), (224, 224), (256, 999), (100, 80)])
    @pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3", "swin_v2_t"])
    def test_normalised_it_is_the_transform_of_the_weights(self, name, size):
        from jobs.zoo.torchvision_models import preprocessing_of

        weights = torchvision.models.get_model_weights(name).DEFAULT
        image, preprocessing = photograph(*size), preprocessing_of(weights)
        expected = weights.transforms()(image).numpy()
        pixels = decode(encoded(image), preprocessing).astype(np.float32).transpose(2, 0, 1) / np.float32(255)
        mean, std = (np.array(each, np.float32).reshape(3, 1, 1) for each in (preprocessing.mean, preprocessing.std))
        assert np.array_equal((pixels - mean) / std, expected)

    @pytest.mark.parametrize("size", [(30_000, 30), (30, 30_000), (40_000, 90), (9_000, 20)])
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    def test_a_long_strip_is_never_resized_whole(self, size, interpolation):
        """At most one grey level from the whole resize, which would need up to 0.5 GB for these."""
        preprocessing = Preprocessing(resize=256, crop=(224, 224), interpolation=interpolation)
        image = photograph(*size)
        ours = decode(encoded(image), preprocessing).astype(int)
        assert np.abs(ours - torchvision_crop(image, preprocessing)).max() <= 1

    def test_a_strip_of_one_pixel_costs_little_memory(self):
        """65,000 x 1 resized whole would be 17 GB; in a process that may use 1 GB it must work."""
        code = (
            "import resource, io; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30));"
            "from PIL import Image; from jobs.images import decode, Preprocessing;"
            "f = io.BytesIO(); Image.new('RGB', (65000, 1), 'red').save(f, 'PNG');"
            "print(decode(f.getvalue(), Preprocessing()).mean(axis=(0, 1)).tolist())"
        )
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=lean_environment()
        )
        assert json.loads(out.stdout) == [255, 0, 0]

    def test_round_trips_through_json_and_refuses_what_it_does_not_know(self):
        for given_ in (
            Preprocessing(),
            Preprocessing(resize=(9, 8), crop=(5, 6), interpolation="bicubic"),
            Preprocessing(resize=None),
        ):
            assert Preprocessing.from_json(json.loads(json.dumps(given_.to_json()))) == given_
        with pytest.raises(ValueError, match="unknown fields zoom; known: resize"):
            Preprocessing.from_json({"zoom": 2})

    @pytest.mark.parametrize(
        "wrong",
        [
            {"resize": 0},
            {"crop": (3,)},
            {"crop": (0, 3)},
            {"interpolation": "cubic"},
            {"std": (0, 1, 1)},
            {"mean": (1, 2)},
        ],
    )
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(ValueError, match="preprocessing: "):
            Preprocessing(**wrong)
