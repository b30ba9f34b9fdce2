"""Parameters in 16 and 8 bits: what is lost, in an export and in a released model."""

import numpy as np
import pytest
from small import images_of, model_of
from trained_runs import small_digits

import puppet_jax as pj
from puppet_jax import _pretrained as pretrained
from puppet_jax._stored_dtype import SCALES, pack, unpack
from train import data
from train.__main__ import main


def test_each_row_is_off_by_half_a_step_at_most(rng):
    arrays = {"a": rng.standard_normal((5, 3, 7)).astype(np.float32), "b": rng.random(9, np.float32)}
    arrays["a"] *= np.array([1e-3, 1.0, 50.0, 0.0, 1e-9], np.float32)[:, None, None]
    arrays["count"] = np.arange(3, dtype=np.uint32)
    assert all(np.array_equal(array, arrays[name]) for name, array in unpack(pack(arrays, "float32")).items())
    packed = pack(arrays, "int8")
    assert {name: array.dtype for name, array in packed.items()} == {
        "a": np.int8, f"a{SCALES}": np.float16, "b": np.float16, "count": np.uint32
    }  # fmt: skip
    found = unpack(packed)
    assert found.keys() == arrays.keys()
    steps = packed[f"a{SCALES}"].astype(np.float64)
    # Half a step, and what the scale's own rounding to 11 bits makes of the greatest of 127 steps.
    error = np.abs(found["a"] - arrays["a"]).max((1, 2))
    assert (error <= steps * (0.5 + 127 * 2**-11)).all()
    assert error[1] > steps[1] / 8  # of a row of 21 numbers some lie in between
    half = unpack(pack(arrays, "float16"))
    np.testing.assert_allclose(half["a"], arrays["a"], rtol=2**-11, atol=6e-8)
    with pytest.raises(ValueError, match="b holds 70000, too much for float16"):
        pack({"b": np.float32([7e4])}, "int8")


@pytest.mark.parametrize("store", ["kernels", "puppeteer"])
def test_an_export_of_8_bits_is_small_and_nearly_as_right(store, tmp_path, no_type_checker):
    predict, images = pj.compile_predict(model_of("plain")), images_of()
    options = {"image_shape": (8, 8, 2), "platforms": ("cpu",), "store": store}
    sizes = {}
    for weights in ("float32", "float16", "int8"):
        pj.export(predict, tmp_path / weights, weights=weights, **options)
        found, expected = pj.load(tmp_path / weights)(images).logits, predict(images).logits
        off = float(np.abs(found - expected).max() / np.abs(expected).max())
        low, high = {"float32": (0, 1e-5), "float16": (1e-6, 5e-3), "int8": (1e-4, 0.2)}[weights]
        assert low <= off <= high
        sizes[weights] = sum(array.nbytes for name, array in np.load(tmp_path / weights).items() if "/" in name)
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
