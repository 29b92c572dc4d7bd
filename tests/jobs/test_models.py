"""Promises: a name gives the same frozen model every time with its own preprocessing; weights run no code; what can't be had says the way out."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from jobs.images import Preprocessing, decode
from jobs.models import ModelError, known_models, layers, load, state_digest
from jobs.torchvision_shim import torchvision
from jobs.zoo.torchvision_models import preprocessing_of

NAMES = torchvision.models.list_models(module=torchvision.models)
SMALL = "shufflenet_v2_x0_5"  # 1.4 million parameters


@pytest.fixture(scope="module")
def small():
    return load(f"{SMALL}:random")


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Weights come from the folder of the test or not at all."""
    from huggingface_hub import constants

    def refuse(*_arguments, **_options):
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


class Canary:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


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


class TestCheckpoint:
    @pytest.mark.parametrize("form", ["plain", "nested", "wrapped", "compiled", "safetensors"])
    def test_every_usual_form_gives_the_same_model(self, small, tmp_path, form):
        state = small.model.state_dict()
        path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
        match form:
            case "safetensors":
                safetensors.torch.save_file(state, path)
            case "nested":
                torch.save({"state_dict": state, "epoch": 3}, path)
            case "wrapped":
                torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
            case "compiled":
                torch.save({f"_orig_mod.{name}": tensor for name, tensor in state.items()}, path)
            case _:
                torch.save(state, path)
        loaded = load(f"{SMALL}:{path}")
        assert loaded.digest == small.digest
        assert loaded.weights == f"checkpoint {path.name}"
        assert not loaded.model.training

    def test_a_head_of_ten_classes_is_built_to_fit_and_has_no_names(self, tmp_path):
        torch.save(torchvision.models.get_model(SMALL, weights=None, num_classes=10).state_dict(), tmp_path / "ten.pt")
        loaded = load(f"{SMALL}:{tmp_path / 'ten.pt'}")
        assert loaded.model(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
        assert loaded.class_names is None

    @pytest.mark.parametrize(
        "name", [name for name in NAMES if not name.startswith("regnet") or name == "regnet_x_400mf"]
    )
    def test_every_architecture_defines_its_classifier_last(self, name):
        """What the head's size is read from."""
        from jobs.zoo.torchvision_models import _class_count

        with torch.device("cpu" if name.startswith("regnet") else "meta"):  # regnet computes with its widths
            arguments = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
            assert _class_count(torchvision.models.get_model(name, weights=None, num_classes=7, **arguments)) == 7

    def test_another_architectures_weights_are_refused_with_the_names(self, small, tmp_path):
        torch.save(small.model.state_dict(), tmp_path / "w.pt")
        with pytest.raises(
            ModelError, match=r"does not fit ResNet: .* missing \(conv1.*unexpected \(.*another architecture\?"
        ) as error:
            load(f"resnet18:{tmp_path / 'w.pt'}")
        assert "\n" not in str(error.value)

    def test_one_wrong_shape_is_named(self, small, tmp_path):
        state = small.model.state_dict() | {"conv1.0.weight": torch.zeros(24, 3, 5, 5)}
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(
            ModelError, match=r"1 of another shape \(conv1.0.weight is \(24, 3, 5, 5\), not \(24, 3, 3, 3\)\)"
        ):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")

    def test_a_pickle_runs_only_when_it_is_trusted(self, small, tmp_path):
        torch.save({"state_dict": small.model.state_dict(), "extra": Canary(tmp_path / "ran")}, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"needs pickle, which can run any code; .*--trust-checkpoint"):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")
        assert not (tmp_path / "ran").exists()
        assert load(f"{SMALL}:{tmp_path / 'w.pt'}", trust_checkpoint=True).digest == small.digest
        assert (tmp_path / "ran").exists()

    def test_a_whole_pickled_model_gives_its_weights_when_it_is_trusted(self, small, tmp_path):
        torch.save(small.model, tmp_path / "w.pt")
        with pytest.raises(ModelError, match="needs pickle"):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")
        assert load(f"{SMALL}:{tmp_path / 'w.pt'}", trust_checkpoint=True).digest == small.digest

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("w.pt", b"", "damaged"),
            ("w.pt", b"PK\x03\x04 cut short", "damaged"),
            ("w.pt", pickle.dumps([1, 2]), "damaged|no state dict"),
            ("w.safetensors", b"\0" * 20, "damaged"),
        ],
    )
    def test_a_damaged_file_is_one_line(self, tmp_path, name, content, reason):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=reason) as error:
            load(f"{SMALL}:{tmp_path / name}")
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)

    def test_what_holds_no_state_is_told_what_it_holds(self, tmp_path):
        torch.save({"optimizer": {}, "epoch": 3}, tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"no state dict \(found: optimizer, epoch\)"):
            load(f"{SMALL}:{tmp_path / 'w.pt'}")

    def test_a_missing_file(self):
        with pytest.raises(ModelError, match=r"checkpoint /no/such.pt not found"):
            load(f"{SMALL}:/no/such.pt")


class TestPretrained:
    def cached(self, tmp_path) -> Path:
        file = tmp_path / "torch/hub/checkpoints" / Path(torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url).name
        file.parent.mkdir(parents=True)
        return file

    def test_weights_on_this_machine_need_no_network(self, small, tmp_path, capsys):
        torch.save(small.model.state_dict(), self.cached(tmp_path))
        for name in (SMALL, f"{SMALL}:IMAGENET1K_V1", f"{SMALL}:DEFAULT"):
            loaded = load(name)
            assert loaded.digest == small.digest
            assert loaded.weights == "torchvision ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
        assert capsys.readouterr().out == ""  # stdout belongs to --json

    def test_without_them_one_line_says_where_the_file_should_lie_and_what_to_pass_instead(self):
        file = "resnet50-11ad3fa6.pth"
        with pytest.raises(ModelError) as error:
            load("resnet50")
        message = str(error.value)
        assert "\n" not in message
        for part in (
            "IMAGENET1K_V2 of resnet50",
            f"torch/hub/checkpoints/{file}",
            "resnet50:/path/to",
            "resnet50:random",
        ):
            assert part in message

    def test_a_planted_pickle_in_the_cache_does_not_run(self, small, tmp_path):
        torch.save({**small.model.state_dict(), "x": Canary(tmp_path / "ran")}, self.cached(tmp_path))
        with pytest.raises(ModelError, match=r"can't be used \(it holds more than tensors\); remove the file"):
            load(SMALL)
        assert not (tmp_path / "ran").exists()

    def test_timm_without_a_network(self):
        pytest.importorskip("timm", reason="the timm extra is not installed")
        with pytest.raises(
            ModelError, match=r"weights of timm/test_resnet are not on this machine .* timm/test_resnet:random"
        ):
            load("timm/test_resnet")


class TestTimm:
    def test_by_name_with_random_weights_or_a_checkpoint(self, tmp_path):
        pytest.importorskip("timm", reason="the timm extra is not installed")
        loaded = load("timm/test_resnet:random")
        assert loaded.model(torch.zeros(1, 3, *loaded.preprocessing.crop)).shape == (1, 1000)
        assert load("timm/test_resnet:random").digest == loaded.digest
        assert loaded.class_names[0].startswith("tench")
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


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def tiny_with_preprocessing() -> tuple[nn.Module, Preprocessing]:
    return tiny(), Preprocessing(resize=40, crop=(32, 32))


def no_model() -> str:
    return "oops"


def broken() -> nn.Module:
    raise RuntimeError("my own fault")


class TestOwn:
    @pytest.fixture(autouse=True)
    def here(self, monkeypatch):
        monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def test_a_function_gives_a_model_and_may_give_its_preprocessing(self):
        assert load("test_models:tiny").preprocessing == Preprocessing()
        loaded = load("test_models:tiny_with_preprocessing")
        assert loaded.preprocessing.crop == (32, 32)
        assert not loaded.model.training
        assert loaded.weights == "function test_models:tiny_with_preprocessing"

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("nosuch.module:tiny", "can't be imported .*No module named 'nosuch'"),
            ("test_models:nosuch", "can't be imported .*no attribute 'nosuch'"),
            ("test_models:no_model", "returned str; it must return a torch module"),
            ("test_models:SMALL", "is a str, no function"),
        ],
    )
    def test_what_is_wrong_is_said(self, name, reason):
        with pytest.raises(ModelError, match=reason):
            load(name)

    def test_an_error_of_the_users_own_code_keeps_its_traceback(self):
        with pytest.raises(RuntimeError, match="my own fault"):
            load("test_models:broken")

    def test_a_module_in_the_current_folder_is_found(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        Path("mine_in_cwd.py").write_text("import torch\ndef build(): return torch.nn.Linear(3, 2)\n")
        assert load("mine_in_cwd:build").digest


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
