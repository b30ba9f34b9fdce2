"""Parameters in 16 and 8 bits: what is lost, in an export and in a released model."""

import math
import zipfile

import numpy as np
import pytest
from flax import nnx
from small import images_of, model_of
from trained_runs import small_digits

import puppet_jax as pj
from bench import evaluated
from puppet_jax import _pretrained as pretrained
from puppet_jax._stored_dtype import SCALES, pack, quantised, unpack
from train import data
from train.__main__ import main


@pytest.mark.parametrize("bits", [8, 4])
def test_each_row_has_the_scale_of_the_least_squared_error(bits, rng):
    rows = rng.standard_normal((5, 3, 7)) * np.array([1.0, 1e-2, 50.0, 0.0, 3.0])[:, None, None]
    array, most = rows.astype(np.float32), 2 ** (bits - 1) - 1
    integers, scales = quantised(array, bits)
    assert (integers.dtype, scales.dtype, np.abs(integers).max()) == (np.int8, np.float16, most)
    for row, of_row, scale in zip(array.astype(np.float64), integers, scales.astype(np.float64), strict=True):

        def error(scale, row=row):
            return np.square(np.clip(np.rint(row / scale), -most, most) * scale - row).sum()

        tried = [max(share * np.abs(row).max() / most, 2**-14) for share in np.linspace(0.5, 1, 21)]
        assert np.square(of_row * scale - row).sum() == pytest.approx(min(map(error, tried)), rel=0.02, abs=1e-12)
        # Half a step of its own at most, but for what is clipped: no row is rounded by another's scale.
        assert np.square(of_row * scale - row).sum() <= row.size * (np.abs(row).max() / most) ** 2 / 4
    bytes_of, back = evaluated.quantised(array, bits)[1], evaluated.quantised(array, bits)[0]
    assert bytes_of == math.ceil(array.size * bits / 8) + 2 * 5
    np.testing.assert_array_equal(back, integers * scales.astype(np.float32)[:, None, None])


def test_arrays_come_back_by_their_names_as_near_as_they_were_stored(rng):
    arrays = {"a": rng.standard_normal((5, 21)).astype(np.float32), "b": rng.random(9, np.float32)}
    arrays["count"] = np.arange(3, dtype=np.uint32)
    assert all(np.array_equal(array, arrays[name]) for name, array in unpack(pack(arrays, "float32")).items())
    packed = pack(arrays, "int8")
    assert {name: array.dtype for name, array in packed.items()} == {
        "a": np.int8, f"a{SCALES}": np.float16, "b": np.float16, "count": np.uint32
    }  # fmt: skip
    assert unpack(packed).keys() == arrays.keys()
    np.testing.assert_array_equal(unpack(packed)["a"], evaluated.quantised(arrays["a"], 8)[0])
    half = unpack(pack(arrays, "float16"))
    np.testing.assert_allclose(half["a"], arrays["a"], rtol=2**-11, atol=6e-8)
    for array in (np.float32([7e4]), np.float32([[9e6]])):
        with pytest.raises(ValueError, match=r"b holds 70.*, too much for float16"):
            pack({"b": array}, "int8")


def test_an_export_of_8_bits_is_small_and_nearly_as_right(tmp_path, no_type_checker):
    predict, images = pj.compile_predict(model_of("plain")), images_of()
    options = {"image_shape": (8, 8, 2), "platforms": ("cpu",)}
    sizes = {}
    for weights in ("float32", "float16", "int8"):
        pj.export(predict, tmp_path / weights, weights=weights, **options)
        found, expected = pj.load(tmp_path / weights)(images).logits, predict(images).logits
        off = float(np.abs(found - expected).max() / np.abs(expected).max())
        low, high = {"float32": (0, 1e-5), "float16": (1e-6, 5e-3), "int8": (1e-4, 0.2)}[weights]
        assert low <= off <= high
        sizes[weights] = zipfile.ZipFile(tmp_path / weights).getinfo("arrays.safetensors").file_size
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, rel=0.05)
    assert sizes["int8"] < 0.45 * sizes["float32"]
    with pytest.raises(ValueError, match="weights must be one of"):
        pj.export(predict, tmp_path / "x", weights="int4", **options)


def test_a_model_released_in_8_bits_tells_what_that_costs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "load", lambda *_, **__: small_digits())
    run, weights = tmp_path / "run", tmp_path / "weights"
    flags = ["--puppeteer=stored", "--width=8", "--batch-size=16", "--epochs=4", "--ema=0.9"]
    assert main([*flags, "--out", str(run)]) == 0
    monkeypatch.setattr(pretrained.resources, "files", lambda _: tmp_path)
    for name in ("float32", "int8"):
        assert main(["release", str(run), f"--name={name}", f"--weights={name}", "--out", str(weights)]) == 0
    whole, small = (weights / f"{name}.safetensors" for name in ("float32", "int8"))
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    info, card = pj.pretrained_info("int8"), (weights / "int8.md").read_text()
    assert info["float32_accuracy"] == pj.pretrained_info("float32")["accuracy"]
    assert f"{info['accuracy']:.2%}" in card
    assert f"as int8; {info['float32_accuracy']:.2%} as float32" in card
    assert card.count("| images | accuracy |") == 2  # by depth, by bin
    capsys.readouterr()
    test = small_digits().test
    answers = pj.load_pretrained("int8")(test.images)
    assert float((answers.argmax(-1) == test.labels).mean()) == pytest.approx(info["accuracy"], abs=1e-6)
    assert not np.array_equal(answers, pj.load_pretrained("float32")(test.images))
    assert main(["eval", str(small), "--json"]) == 0
    assert f'"accuracy": {info["accuracy"]}' in capsys.readouterr().out


def test_arrays_that_do_not_fit_change_nothing():
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    before = np.asarray(layer.kernel[...])
    for bias in (np.zeros(2, np.float32), np.zeros(3)):
        with pytest.raises(ValueError, match="bias is float"):
            pretrained.assign(layer, {"kernel": before + 1, "bias": bias})
        np.testing.assert_array_equal(layer.kernel[...], before)
