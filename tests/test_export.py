"""An exported model answers as the predictor it was made from, in a process that has never heard of this package."""

import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from unittest.mock import Mock

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from small import Net, close, drawn, images_of, model_of

import puppet_jax as pj
from puppet_jax._artifact import custom_calls

SHAPE = (8, 8, 2)
NAMES = ("cat", "猫", "a\nb")


@pytest.fixture(scope="module")
def images():
    """Six images whose depths differ, in no order."""
    return np.asarray(images_of())[:6]


@pytest.fixture(scope="module")
def predict():
    return pj.compile_predict(model_of())


@pytest.fixture(scope="module")
def file(predict, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "plain.puppet"
    pj.export(predict, path, image_shape=SHAPE, classes=NAMES, preprocessing="cut to 8×8")
    return path


@pytest.fixture(scope="module")
def loaded(file):
    return pj.load(file)


@pytest.fixture(scope="module")
def foreign():
    """With random streams, pooling, and a block that can be skipped."""
    return pj.compile_predict(model_of("foreign", "stored"))


def same(found, expected):
    assert close(tuple(found), tuple(expected), 1e-5)
    np.testing.assert_array_equal(found.depth, expected.depth)


def refused(call, *cases):
    for given, error, words in cases:
        with pytest.raises(error, match=words):
            call(given)


def test_it_answers_as_the_model_for_any_batch_and_says_what_it_is(loaded, predict, images):
    everything = predict(images)
    assert len(set(np.asarray(everything.depth).tolist())) == 2
    same(jax.jit(loaded)(images), everything)
    same(loaded(images), everything)  # filled up to eight
    same(loaded(images[4]), jax.tree.map(lambda rows: rows[4], everything))
    assert (loaded.classes, loaded.preprocessing, loaded.complexities) == (NAMES, "cut to 8×8", (0.0, 8.0))
    assert (loaded.image_shape, loaded.dtype, loaded.version) == (SHAPE, "uint8", pj.__version__)
    assert loaded.platforms == ("cpu", "cuda", "rocm", "tpu")
    assert repr(loaded) == "<LoadedModel: images 8×8×2, 3 classes, kernels for 0 to 8 bits>"


SCRIPT = """
import sys
import numpy as np
images = np.load("images.npy")
exec(sys.stdin.read())
assert not {"flax", "diffrax", "puppet_jax"} & set(sys.modules), "by jax alone"
np.savez("out.npz", *map(np.asarray, (logits, complexity, depth)))
"""


def test_a_fresh_process_without_the_package_answers_by_the_lines_of_the_readme(foreign, images, tmp_path):
    path = tmp_path / "foreign.puppet"
    pj.export(foreign, path, image_shape=SHAPE, platforms=("cpu",))
    np.save(tmp_path / "images.npy", images)
    with zipfile.ZipFile(path) as archive:
        readme = archive.read("README.txt").decode().replace("THIS FILE", str(path))
    lines = textwrap.dedent(re.search(r"Without it.*?\n\n(.*?)\n\n", readme, flags=re.S)[1])
    subprocess.run([sys.executable, "-c", SCRIPT], input=lines, cwd=tmp_path, text=True, check=True)
    found = pj.Prediction(*np.load(tmp_path / "out.npz").values())
    same(found, foreign(images))
    same(found, pj.load(path)(images))


@pytest.mark.parametrize("name", ["predict", "foreign"])
def test_the_formulation_for_accelerators_is_right_for_any_batch(name, request, images, tmp_path, monkeypatch):
    """Run here on the CPU: which of the two formulations a platform gets is all that differs."""
    predict = request.getfixturevalue(name)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *batch, cpu, default: default(*batch))
    pj.export(predict, tmp_path / "a", image_shape=SHAPE, platforms=("cpu",))
    monkeypatch.undo()
    same(pj.load(tmp_path / "a")(images), predict(images))


@pytest.mark.usefixtures("no_type_checker")
def test_images_are_checked_at_the_door(loaded, predict, images, tmp_path):
    refused(
        loaded,
        (images[:, :7], ValueError, "as exported"),
        (images[:0], ValueError, "empty axis"),
        (images[None], ValueError, "one image"),
        (images.astype(np.float32) / 255, TypeError, "must be uint8"),
    )
    pj.export(predict, tmp_path / "a", image_shape=SHAPE, dtype="float32", platforms=("cpu",))
    loaded = pj.load(tmp_path / "a")
    unit = (images / 255).astype(np.float32)
    same(loaded(unit), predict(unit))
    same(loaded.predict_images(images), predict(images))  # of the model's own size, which needs no Pillow
    refused(
        loaded.predict_images,
        ([], ValueError, "got no picture"),
        (unit, TypeError, "got float32"),
        ("a.jpg", TypeError, r"PIL\.Image\.open\(path\)"),
        (np.zeros((9, 9, 3), np.uint8), ValueError, r"got an array of shape \(9, 9, 3\), expected .* or \(8, 8, 2\)"),
    )
    refused(predict.predict_images, (images, ValueError, r"set model\.image_shape"))
    refused(loaded, (2 * unit, ValueError, "must lie in"), (images, TypeError, "must be float32"))


@pytest.mark.usefixtures("no_type_checker")
def test_what_cannot_be_exported_is_refused_before_anything_is_written(predict, tmp_path):
    good = {"predict": predict, "path": tmp_path / "a", "image_shape": SHAPE}
    refused(
        lambda change: pj.export(**{**good, **change}),
        ({"predict": model_of()}, TypeError, "compile_predict"),
        ({"predict": pj.compile_predict(model_of(bin=None))}, ValueError, "measures complexity without bins"),
        ({"image_shape": (8, 8)}, ValueError, "height, width, channels"),
        ({"image_shape": (1, 8, 2)}, ValueError, "smaller"),
        ({"dtype": "int8"}, ValueError, "dtype"),
        ({"platforms": "cpu"}, ValueError, "platforms"),
        ({"platforms": ("gpu",)}, ValueError, "cuda"),
        ({"classes": ("one",)}, ValueError, "3 logits"),
        ({"path": tmp_path / "none" / "a"}, ValueError, "folder that exists"),
    )
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_calls_python_is_refused(tmp_path):
    class Calls(Net):
        def __call__(self, x):
            y = super().__call__(x)
            return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(y.shape, y.dtype), y, vmap_method="expand_dims")

    net = drawn(lambda: pj.puppetize(Calls(nnx.Rngs(0)), "stored", image_shape=SHAPE, rngs=nnx.Rngs(1)))
    for platforms in (("cpu",), ("cpu", "cuda")):
        with pytest.raises(ValueError, match="leave such functions out of the puppetized module"):
            pj.export(pj.compile_predict(net), tmp_path / "a", image_shape=SHAPE, platforms=platforms)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_replaced_only_by_a_whole_one(predict, tmp_path, monkeypatch):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"before")

    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        pj.export(predict, path, image_shape=SHAPE)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# ---- Files that are something else, damaged, or made to do harm


def changed(file, path, compression=zipfile.ZIP_STORED, metadata=None, **parts):
    """The file with some of its parts in place of its own, and of ``metadata`` some entries; checksums are right."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["metadata.json"] = json.dumps(json.loads(contents["metadata.json"]) | (metadata or {}))
    contents |= {{"program": "program.stablehlo", "arrays": "arrays.safetensors"}[part]: parts[part] for part in parts}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def program_of(function, platform="cpu"):
    return bytes(jax.export.export(jax.jit(function), platforms=(platform,))(jnp.eye(3)).serialize())


def test_bytes_that_are_no_whole_export_are_refused(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "a"
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"\x89PNG\r\n\x1a\n" + bytes(100), whole[:-30], whole[:middle], flipped):
        path.write_bytes(content)
        refused(pj.load, (path, ValueError, "damaged, no export, or not for jax"))
    os.mkfifo(tmp_path / "pipe")
    refused(
        pj.load,
        (tmp_path / "none", FileNotFoundError, "none"),
        (tmp_path / "pipe", ValueError, "not a regular file"),
    )


HUGE = b'{"puppet.head":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}'


def test_a_file_that_contradicts_itself_or_could_do_harm_is_refused(file, tmp_path, monkeypatch):
    refused(
        lambda change: pj.load(changed(file, tmp_path / "a", **change)),
        ({"compression": zipfile.ZIP_DEFLATED}, ValueError, "compressed"),  # as a zip bomb is
        ({"metadata": {"version": 2}}, ValueError, f"version 2, of puppet-jax {pj.__version__}; this one reads 3"),
        ({"metadata": {"format": "x"}}, ValueError, "another program"),
        ({"metadata": {"classes": ["one"]}}, ValueError, "not one name for each logit"),
        ({"metadata": {"complexities": [1.0]}}, ValueError, "not enough values"),
        ({"program": b"\x10" * 400}, ValueError, "damaged"),
        ({"program": program_of(jnp.sin)}, ValueError, "damaged"),
        ({"program": program_of(jnp.sin, "tpu")}, ValueError, "for tpu, and this process computes on cpu"),
        ({"program": program_of(jnp.linalg.eigvalsh)}, ValueError, "not safe to run: calls lapack_"),
        ({"arrays": len(HUGE).to_bytes(8, "little") + HUGE}, ValueError, "damaged"),
        ({"arrays": safetensors.numpy.save({"a": np.ones(3)})}, ValueError, "damaged"),
    )
    monkeypatch.setattr(jax.export, "minimum_supported_calling_convention_version", 99)
    refused(pj.load, (file, ValueError, r"calling convention.*install the jax"))


def test_every_function_outside_of_a_program_is_named():
    text = """
      %0 = stablehlo.custom_call @shape_assertion(%1) {backend_config = ""} : (tensor<i1>) -> ()
      %1 = stablehlo.custom_call @xla_ffi_python_cpu_callback(%0) : (tensor<f32>) -> tensor<f32>
      %2 = stablehlo.custom_call @"with.dots"(%0) : (tensor<f32>) -> tensor<f32>
      %3 = "stablehlo.custom_call"(%0) <{call_target_name = "hidden"}> : (tensor<f32>) -> tensor<f32>
    """
    assert custom_calls(text) == ["a function without a name", "with.dots", "xla_ffi_python_cpu_callback"]
