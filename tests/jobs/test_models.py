"""Promises: a name gives the same frozen model every time, with its own preprocessing, and its layers by name."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import SMALL, tiny
from torch import nn

from jobs.images import decode
from jobs.models import ModelError, known_models, layers, load, state_digest
from jobs.torchvision_shim import torchvision
from jobs.zoo.torchvision_models import preprocessing_of

NAMES = torchvision.models.list_models(module=torchvision.models)


pytestmark = pytest.mark.usefixtures("no_network")


class TestShim:
    def test_torchvision_works_in_a_fresh_process_whatever_build_torch_is(self):
        code = (
            "from jobs.torchvision_shim import torchvision; import torchvision.datasets, torchvision.transforms.v2;"
            "print(len(torchvision.models.list_models()) > 100)"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
        assert out.stdout.strip() == "True"

    def test_an_operator_that_did_not_load_says_so_when_it_is_called(self):
        boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.9]]), torch.tensor([1.0, 0.5])
        try:
            kept = torch.ops.torchvision.nms(boxes, scores, 0.5)
        except NotImplementedError as error:
            reason = str(error)
        else:
            reason = ""
            assert kept.tolist() == [0]  # a build whose operators load
        assert not reason or "torchvision::nms" in reason


class TestRandom:
    def test_is_frozen_in_evaluation_mode_and_the_same_every_time(self, small):
        assert not small.model.training
        assert not any(parameter.requires_grad for parameter in small.model.parameters())
        assert load(f"{SMALL}:random").digest == small.digest
        assert load("shufflenet_v2_x1_0:random").digest != small.digest

    def test_random_weights_do_not_depend_on_the_number_of_threads(self):
        """A driver has as many as there are cores, its workers one each; both must find the same weights."""
        before = torch.get_num_threads()
        digests = set()
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                digests.add(load("resnet50:random").digest)
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        assert len(digests) == 1

    def test_leaves_the_global_generator_as_it_was(self):
        before = torch.random.get_rng_state()
        load(f"{SMALL}:random")
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_signals_neither_die_nor_explode(self, small):
        """Without calibration these logits are constant to 1e-6 or beyond 1e3, and every map is noise."""
        images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        logits = small.model(images)
        assert logits.std(dim=1).min() > 0.01
        assert logits.abs().max() < 100
        assert (logits[0] - logits[1]).abs().max() > 1e-3  # it looks at the image

    def test_a_head_that_starts_at_zero_is_drawn_again(self):
        model = load("vit_b_32:random").model
        assert model.heads.head.weight.std() > 0.01

    def test_the_record_says_so(self, small):
        assert small.weights == "random"
        assert len(small.class_names) == 1000
        assert small.class_names[0] == "tench"


class TestPreprocessing:
    @pytest.mark.parametrize("name", NAMES)
    def test_is_that_of_the_weights(self, name):
        for weights in torchvision.models.get_model_weights(name):
            ours, theirs = preprocessing_of(weights), weights.transforms()
            assert [ours.resize] == theirs.resize_size
            assert list(ours.crop) == theirs.crop_size * 2
            assert (list(ours.mean), list(ours.std)) == (theirs.mean, theirs.std)
            assert ours.interpolation == theirs.interpolation.value

    @pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "levit_128s", "efficientnet_lite0"])
    def test_timms_crop_is_timms_transform_to_the_bit(self, name):
        timm = pytest.importorskip("timm", reason="the timm extra is not installed")
        from jobs.zoo.timm_models import preprocessing_of as of_timm

        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        transform = timm.data.create_transform(**config, is_training=False)
        rng = np.random.default_rng(0)
        image = Image.fromarray(rng.integers(0, 256, (300, 417, 3), np.uint8))
        file = io.BytesIO()
        image.save(file, "PNG")
        ours = of_timm(config)
        pixels = torch.from_numpy(decode(file.getvalue(), ours).copy()).permute(2, 0, 1)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (ours.mean, ours.std))
        assert torch.equal((pixels / 255 - mean) / std, transform(image))


class TestTimm:
    def test_by_name_with_random_weights_or_a_checkpoint(self, tmp_path):
        pytest.importorskip("timm", reason="the timm extra is not installed")
        loaded = load("timm/test_resnet:random")
        assert loaded.model(torch.zeros(1, 3, *loaded.preprocessing.crop)).shape == (1, 1000)
        assert load("timm/test_resnet:random").digest == loaded.digest
        assert loaded.class_names[0] == "tench"
        torch.save(loaded.model.state_dict(), tmp_path / "w.pt")
        assert load(f"timm/test_resnet:{tmp_path / 'w.pt'}").digest == loaded.digest

    def test_an_unknown_name_gives_the_nearest(self):
        pytest.importorskip("timm", reason="the timm extra is not installed")
        with pytest.raises(ModelError, match="'timm/resnet_50' not found; nearest: timm/"):
            load("timm/resnet_50")


class TestSample:
    def test_the_sample_model_is_trained(self):
        """One cup of espresso; the accuracy on 250 photographs is in docs/models.md."""
        pytest.importorskip("efficientnet_lite_pytorch", reason="the sample extra is not installed")
        from jobs.datasets import index_dataset
        from jobs.images import decode_rows

        loaded = load("efficientnet_lite0")
        decoded = decode_rows(index_dataset("sample", keys=["coffee.png"]).index, loaded.preprocessing)
        pixels = torch.from_numpy(decoded.pixels).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (loaded.preprocessing.mean, loaded.preprocessing.std))
        probability, label = loaded.model((pixels - mean) / std).softmax(dim=1).max(dim=1)
        assert loaded.class_names[int(label)] == "espresso"
        assert probability > 0.9
        assert loaded.licence == "Apache-2.0"

    def test_its_accuracy_on_photographs_is_that_of_a_trained_model(self):
        """0.896 on one photograph of every fourth class: wrong means or a wrong class order would show at once."""
        pytest.importorskip("efficientnet_lite_pytorch", reason="the sample extra is not installed")
        folder = os.environ.get("IMAGENET_SAMPLE")
        if not folder:
            pytest.skip("IMAGENET_SAMPLE names no folder of labelled ImageNet photographs")
        from jobs.datasets import index_dataset
        from jobs.images import decode_rows

        loaded, index = load("efficientnet_lite0"), index_dataset(folder).index
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (loaded.preprocessing.mean, loaded.preprocessing.std))
        right = 0
        for start in range(0, len(index), 50):
            rows = index.slice(start, 50)
            pixels = torch.from_numpy(decode_rows(rows, loaded.preprocessing).pixels).permute(0, 3, 1, 2) / 255
            right += (
                (loaded.model((pixels - mean) / std).argmax(dim=1) == torch.tensor(rows["label"].to_pylist()))
                .sum()
                .item()
            )
        assert right / len(index) > 0.88


class TestNames:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("resnet5", "'resnet5' not found; nearest: resnet50"),
            ("ResNet-50", "'ResNet-50' not found; nearest: resnet50"),
            ("resnet18:v1", "weights 'v1' of resnet18 not found; nearest: IMAGENET1K_V1"),
            ("qwertyuiop", "'qwertyuiop' not found; see: cli.py models"),
        ],
    )
    def test_an_unknown_one_gives_the_nearest(self, name, reason):
        with pytest.raises(ModelError, match=reason):
            load(name)

    def test_known_models_are_those_of_torchvision_and_the_sample(self):
        known = known_models()
        assert {"resnet50", "vit_b_16", "efficientnet_lite0"} <= set(known)
        assert "fasterrcnn_resnet50_fpn" not in known  # no classifier
        assert list(known) == sorted(known)


class TestLayers:
    def test_have_names_that_can_be_passed_on_with_their_shapes(self):
        model = tiny().eval()
        listed = layers(model, (32, 32))
        assert [(layer.name, layer.type, layer.shape, layer.calls) for layer in listed] == [
            ("0", "Conv2d", (4, 30, 30), 1),
            ("1", "AdaptiveAvgPool2d", (4, 1, 1), 1),
            ("2", "Flatten", (4,), 1),
            ("3", "Linear", (2,), 1),
        ]
        assert [layer.parameter_count for layer in listed] == [112, 0, 0, 10]
        assert not any(module._forward_hooks for module in model.modules())

    def test_a_reused_layer_and_one_never_reached_are_told(self):
        named = {layer.name: layer for layer in layers(load("resnet18:random").model, (64, 64))}
        assert named["layer1.0.relu"].calls == 2
        assert [layer.calls for layer in layers(nn.Sequential(nn.Flatten(), _Holder()), (8, 8))] == [1, 1, 0]

    def test_a_module_that_yields_no_tensor_leaves_the_shapes_open(self):
        listed = layers(nn.Sequential(nn.Flatten(), _YieldsDict()), (4, 4))
        assert [(layer.name, layer.shape) for layer in listed] == [("0", (48,)), ("1", None)]


class _Holder(nn.Identity):
    def __init__(self):
        super().__init__()
        self.never = nn.Identity()


class _YieldsDict(nn.Module):
    def forward(self, x):
        return {"out": x}


class TestDigest:
    def test_sees_every_value_name_type_and_shape(self):
        model = tiny()
        first = state_digest(model)
        assert state_digest(model) == first
        with torch.no_grad():
            model[3].bias[1] += 1e-6
        assert state_digest(model) != first

    def test_of_half_precision_scalars_and_strided_tensors(self):
        model = nn.BatchNorm2d(3).to(torch.bfloat16).to(memory_format=torch.channels_last)
        assert len(state_digest(model)) == 64
