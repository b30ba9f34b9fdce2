"""An ONNX file answers in ONNX Runtime as the predictor it was made from, and is about as large as its parameters."""

import ctypes
import json
import subprocess
import sys
import zlib

import jax
import numpy as np
import pytest
from flax import nnx
from puppetized import images_of, net_of, puppet_of
from small import close, drawn, model_of
from small import images_of as small_images

import puppet_jax as pj
from bench import c_code

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def answers(path, images, one_by_one=False):
    """Of every output, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    parts = [images[i : i + 1] for i in range(len(images))] if one_by_one else [images]
    found = [session.run(None, {"images": part}) for part in parts]
    return dict(
        zip([each.name for each in session.get_outputs()], map(np.concatenate, zip(*found, strict=True)), strict=True)
    )


def same(path, model, images, batch=None, **options):
    predict = model if isinstance(model, pj.Predictor) else pj.compile_predict(model)
    pj.export(predict, path, image_shape=images.shape[1:], batch=batch, **options)
    expected = predict(images)
    found = answers(path, images, one_by_one=batch == 1)
    logits = {name: each for name, each in found.items() if name.startswith("logits")}
    assert close(list(logits.values()), expected.logits, 1e-5)
    np.testing.assert_array_equal(found["complexity"], expected.complexity)
    np.testing.assert_array_equal(found["depth"], expected.depth)
    return expected


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize(
    ("puppet", "puppeteer", "measurement"),
    [
        ("plain", "continuous", {}),
        ("plain", "continuous", {"depth": "full", "bin": None}),
        ("plain", "stored", {"depth": "full"}),
        ("foreign", "ode", {}),
        ("foreign", "stored", {}),
        ("foreign", "continuous", {"function": "small:brightness"}),
    ],
)
def test_it_answers_as_the_model(puppet, puppeteer, measurement, batch, tmp_path):
    """Images of several depths at once; with branches that skip layers, grouped convolutions, and pooling."""
    images = np.asarray(small_images())
    expected = same(tmp_path / "a.onnx", model_of(puppet, puppeteer, **measurement), images, batch)
    assert len(set(np.asarray(expected.depth).tolist())) > ("depth" not in measurement)


@pytest.mark.parametrize(("name", "batch_norm"), [("mobilenet", "group"), ("unet", "running")])
def test_so_do_puppets_of_any_cnn(name, batch_norm, tmp_path):
    model = puppet_of(net_of(name), batch_norm=batch_norm, measurement=pj.Measure(depth="full"))
    same(tmp_path / "a.onnx", model, images_of(3))


def test_an_image_leaves_where_it_is_sure(tmp_path):
    def make():
        layers = pj.LayerSpec(4, stride=2), pj.LayerSpec(4, pool=2), pj.LayerSpec(4)
        puppet = pj.PlainPuppet(layers, in_channels=2, num_classes=3, exits=(1, 2, 3), rngs=nnx.Rngs(0))
        return pj.PuppetCNN(
            pj.StoredPuppeteer(puppet.kernel_shapes, rngs=nnx.Rngs(0)), puppet, pj.Measure(depth="full")
        )

    model, images = drawn(make), np.asarray(small_images())
    at_first = pj.compile_predict(model, depth=1)(images).probabilities.max(axis=1)
    predict = pj.compile_predict(model, confidence=float(np.median(at_first)))
    expected = same(tmp_path / "a.onnx", predict, images)
    assert len(set(np.asarray(expected.depth).tolist())) > 1


def test_a_pretrained_model_is_as_small_as_its_parameters(tmp_path, rng):
    model, path = pj.load_pretrained("puppet_s_cifar10_int8"), tmp_path / "a.onnx"
    images = np.stack([rng.integers(0, n, (32, 32, 3)) for n in (256, 30, 3)]).astype(np.uint8)
    same(path, model, images, weights="int8", preprocessing="cut")
    content = path.read_bytes()
    assert len(content) <= 48_000
    assert len(zlib.compress(content, 9)) <= 33_000
    about = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(about["classes"]) == list(model.classes)
    assert about["preprocessing"] == "cut"
    assert json.loads(about["images"])["shape"] == [32, 32, 3]


def test_weights_of_fewer_bits_change_the_answers_a_little(tmp_path):
    images = np.asarray(small_images())
    predict = pj.compile_predict(model_of(puppeteer="stored", depth="full"))
    for weights in ("int8", "float16"):
        pj.export(predict, tmp_path / "a.onnx", image_shape=images.shape[1:], weights=weights)
        found = answers(tmp_path / "a.onnx", images)["logits"]
        assert close(found, predict(images).logits, 0.05)
        assert not close(found, predict(images).logits, 1e-5)


def test_as_c_it_answers_the_same_without_allocating(tmp_path):
    """Compiled for size, of 20 images; its arrays share one."""
    pytest.importorskip("emx_onnx_cgen", reason="emx-onnx-cgen, which writes the C, is not installed")
    predict, images = pj.compile_predict(model_of(depth="full")), np.asarray(small_images(levels=(256, 3) * 10))
    pj.export(predict, tmp_path / "a.onnx", image_shape=images.shape[1:], batch=1, weights="int8")
    expected = answers(tmp_path / "a.onnx", images, one_by_one=True)
    memory = c_code.write(tmp_path / "a.onnx", tmp_path / "puppet.c")
    assert memory < 50_000
    assert "malloc" not in (tmp_path / "puppet.c").read_text()
    command = ["gcc", "-std=c99", "-Os", "-shared", "-fPIC", "puppet.c", "-o", "puppet.so", "-lm"]
    subprocess.run(command, cwd=tmp_path, check=True)
    puppet = ctypes.CDLL(str(tmp_path / "puppet.so")).puppet
    found = {name: np.zeros_like(each) for name, each in expected.items()}
    for i, image in enumerate(images):
        puppet(
            *(each.ctypes.data_as(ctypes.c_void_p) for each in (image, *(rows[i : i + 1] for rows in found.values())))
        )
    assert close(found["logits"], expected["logits"], 1e-4)
    np.testing.assert_array_equal(found["depth"], expected["depth"])
    np.testing.assert_allclose(found["complexity"], expected["complexity"], rtol=1e-6)


@pytest.mark.usefixtures("no_type_checker")
def test_what_cannot_be_written_is_refused_by_name(tmp_path, monkeypatch):
    class Sorts(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)

        def __call__(self, x):
            return jax.numpy.sort(self.conv(x).mean((1, 2)))

    sorts = drawn(lambda: pj.puppetize(Sorts(nnx.Rngs(0)), "stored", image_shape=(8, 8, 2), rngs=nnx.Rngs(1)))
    good = {"predict": pj.compile_predict(model_of()), "path": tmp_path / "a.onnx", "image_shape": (8, 8, 2)}
    for change, words in [
        ({"predict": pj.compile_predict(sorts)}, "computes 'sort' of float32"),
        ({"predict": pj.compile_predict(model_of(puppeteer="ode", bin=None))}, "an ODE's kernels"),
        ({"predict": pj.compile_predict(model_of(dtype="bfloat16"))}, "computes in bfloat16"),
        ({"batch": 2}, "batch must be None, or 1"),
        ({"path": tmp_path / "a", "batch": 1}, "batch must be None, or 1"),
        ({"image_shape": (1, 8, 2)}, "smaller"),
    ]:
        with pytest.raises(ValueError, match=words):
            pj.export(**{**good, **change})
    for name in [name for name in sys.modules if name.startswith("puppet_jax._onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"puppet-jax\[onnx\]"):
        pj.export(**good)
    assert list(tmp_path.iterdir()) == []
