"""An exported model answers as the predictor it was made from, in a process that has never heard of this package."""

import json
import os
import re
import subprocess
import sys
import zipfile

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


def test_it_answers_as_the_model_for_any_batch(loaded, predict, images):
    everything = predict(images)
    assert len(set(np.asarray(everything.depth).tolist())) == 2
    same(jax.jit(loaded)(images), everything)
    same(loaded(images), everything)  # filled up to eight
    same(loaded(images[4]), jax.tree.map(lambda rows: rows[4], everything))


def test_it_says_what_it_is(loaded, file):
    assert loaded.classes == NAMES
    assert loaded.preprocessing == "cut to 8×8"
    assert loaded.complexities == (0.0, 8.0)
    assert (loaded.image_shape, loaded.dtype) == (SHAPE, "uint8")
    assert loaded.platforms == ("cpu", "cuda", "rocm", "tpu")
    assert loaded.version == pj.__version__
    assert repr(loaded) == f"<LoadedModel: images 8×8×{SHAPE[2]}, {len(NAMES)} classes, kernels for 0 to 8 bits>"
    with zipfile.ZipFile(file) as archive:
        assert "猫" in archive.read("README.txt").decode()


SCRIPT = """
import sys
import numpy as np
file, images, out = sys.argv[1:]
scope = {"images": np.load(images)}
exec(sys.stdin.read().replace("THIS FILE", file), scope)
assert not {"flax", "diffrax", "puppet_jax"} & set(sys.modules), "by jax alone"
np.savez(out, *[np.asarray(scope[name]) for name in ("logits", "complexity", "depth")])
"""


def test_a_fresh_process_without_the_package_answers_by_the_lines_of_the_readme(foreign, images, tmp_path):
    path = tmp_path / "foreign.puppet"
    pj.export(foreign, path, image_shape=SHAPE, platforms=("cpu",))
    np.save(tmp_path / "images.npy", images)
    with zipfile.ZipFile(path) as archive:
        lines = re.search(r"Without it.*?\n\n(.*?)\n\n", archive.read("README.txt").decode(), flags=re.S)[1]
    subprocess.run(
        [sys.executable, "-c", SCRIPT, path, tmp_path / "images.npy", tmp_path / "out.npz"],
        input="\n".join(line.removeprefix("    ") for line in lines.splitlines()),
        cwd=tmp_path,
        text=True,
        check=True,
    )
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


def test_floats_are_checked_at_the_door(predict, images, tmp_path):
    pj.export(predict, tmp_path / "a", image_shape=SHAPE, dtype="float32", platforms=("cpu",))
    loaded = pj.load(tmp_path / "a")
    unit = (images / 255).astype(np.float32)
    same(loaded(unit), predict(unit))
    same(loaded.predict_images(images), predict(images))  # of the model's own size, which needs no Pillow
    for wrong, error, words in [
        ([], ValueError, "got no picture"),
        (unit, TypeError, "got float32"),
        ("a.jpg", TypeError, r"PIL\.Image\.open\(path\)"),
        (np.zeros((9, 9, 3), np.uint8), ValueError, r"got an array of shape \(9, 9, 3\), expected .* or \(8, 8, 2\)"),
    ]:
        with pytest.raises(error, match=words):
            loaded.predict_images(wrong)
    with pytest.raises(ValueError, match=r"set model\.image_shape"):
        predict.predict_images(images)
    with pytest.raises(ValueError, match="must lie in"):
        loaded(np.full(SHAPE, 1.5, np.float32))
    with pytest.raises(TypeError, match="float32"):
        loaded(images)


@pytest.mark.usefixtures("no_type_checker")
def test_other_images_are_refused(loaded, images):
    for wrong, error, words in [
        (images[:, :7], ValueError, "as exported"),
        (images[:0], ValueError, "empty axis"),
        (images[None], ValueError, "one image"),
        (images.astype(np.float32) / 255, TypeError, "expected dtype uint8"),
    ]:
        with pytest.raises(error, match=words):
            loaded(wrong)


@pytest.mark.usefixtures("no_type_checker")
def test_what_cannot_be_exported_is_refused_before_anything_is_written(predict, tmp_path):
    good = {"predict": predict, "path": tmp_path / "a", "image_shape": SHAPE}
    for change, error, words in [
        ({"predict": model_of()}, TypeError, "compile_predict"),
        ({"predict": pj.compile_predict(model_of(bin=None))}, ValueError, "measures complexity without bins"),
        ({"image_shape": (8, 8)}, ValueError, "height, width, channels"),
        ({"image_shape": (1, 8, 2)}, ValueError, "smaller"),
        ({"dtype": "int8"}, ValueError, "dtype"),
        ({"platforms": "cpu"}, ValueError, "platforms"),
        ({"platforms": ("gpu",)}, ValueError, "cuda"),
        ({"classes": ("one",)}, ValueError, "3 logits"),
        ({"path": tmp_path / "none" / "a"}, ValueError, "folder that exists"),
    ]:
        with pytest.raises(error, match=words):
            pj.export(**{**good, **change})
    assert list(tmp_path.iterdir()) == []


def test_images_of_other_complexities_are_refused(predict, images, tmp_path):
    h = np.asarray(predict(images).complexity)
    narrow = pj.compile_predict(model_of(), complexities=(2.0, 4.0))
    pj.export(narrow, tmp_path / "a", image_shape=SHAPE, platforms=("cpu",))
    loaded, inside = pj.load(tmp_path / "a"), (h > 2.0) & (h < 4.0)
    assert loaded.complexities == narrow.complexities == (2.0, 4.25)
    same(loaded(images[inside]), narrow(images[inside]))
    with pytest.raises(ValueError, match=r"for 2 to 4\.25; call compile_predict"):
        loaded(images)
    assert np.isnan(jax.jit(loaded)(images).logits[~inside]).all()


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

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            pj.export(predict, path, image_shape=SHAPE)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


# ---- Files that are something else, damaged, or made to do harm


def rewritten(file, path, compression=zipfile.ZIP_STORED, **changes):
    """The file with parts of it changed, ``metadata`` by entries, and every checksum right again."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["metadata.json"] = json.dumps(json.loads(contents["metadata.json"]) | changes.pop("metadata", {}))
    for name, content in changes.items():
        contents[name.replace("_", ".")] = program_of(content) if callable(content) else content
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def program_of(function):
    return bytes(jax.export.export(jax.jit(function), platforms=("cpu",))(jnp.eye(3)).serialize())


def test_bytes_that_are_no_whole_export_are_refused(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "a"
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (b"", b"\x89PNG\r\n\x1a\n" + bytes(100), whole[:-30], whole[:middle], flipped):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged, no export, or not for jax"):
            pj.load(path)
    with pytest.raises(FileNotFoundError):
        pj.load(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        pj.load(tmp_path / "pipe")


PICKLED = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\ncos\n"
HUGE = b'{"puppet.head":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}'


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "compressed"),  # as a zip bomb is
        ({"metadata": {"version": 2}}, rf"version 2, of puppet-jax {re.escape(pj.__version__)}; this one reads 3"),
        ({"metadata": {"format": "x"}}, "another program"),
        ({"metadata": {"classes": ["one"]}}, "not one name for each logit"),
        ({"metadata": {"complexities": [1.0]}}, "not enough values"),
        ({"program_stablehlo": b"\x10" * 400}, "damaged"),
        ({"program_stablehlo": jnp.sin}, "damaged"),
        ({"program_stablehlo": jnp.linalg.eigvalsh}, "not safe to run: calls lapack_"),
        ({"arrays_safetensors": PICKLED}, "damaged"),
        ({"arrays_safetensors": len(HUGE).to_bytes(8, "little") + HUGE}, "damaged"),
        ({"arrays_safetensors": safetensors.numpy.save({"a": np.ones(3)})}, "damaged"),
    ],
)
def test_a_file_that_contradicts_itself_or_could_do_harm_is_refused(file, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        pj.load(rewritten(file, tmp_path / "a", **change))


def test_a_program_for_another_platform_or_jax_is_refused(file, predict, tmp_path, monkeypatch):
    pj.export(predict, tmp_path / "tpu", image_shape=SHAPE, platforms=("tpu",))
    with pytest.raises(ValueError, match="exported for tpu, and this process computes on cpu"):
        pj.load(tmp_path / "tpu")
    monkeypatch.setattr(jax.export, "minimum_supported_calling_convention_version", 99)
    with pytest.raises(ValueError, match=r"calling convention.*install the jax"):
        pj.load(file)


def test_every_function_outside_of_a_program_is_named():
    text = """
      %0 = stablehlo.custom_call @shape_assertion(%1) {backend_config = ""} : (tensor<i1>) -> ()
      %1 = stablehlo.custom_call @xla_ffi_python_cpu_callback(%0) : (tensor<f32>) -> tensor<f32>
      %2 = stablehlo.custom_call @"with.dots"(%0) : (tensor<f32>) -> tensor<f32>
      %3 = "stablehlo.custom_call"(%0) <{call_target_name = "hidden"}> : (tensor<f32>) -> tensor<f32>
    """
    assert custom_calls(text) == ["a function without a name", "with.dots", "xla_ffi_python_cpu_callback"]
