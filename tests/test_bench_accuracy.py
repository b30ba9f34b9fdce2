"""The studies' command, on runs of seconds."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import puppet_jax as pj
from bench import accuracy, cifar, study
from bench.peers.shuffled import complexity as complexity_of_another
from puppet_jax._named_function import named_function
from puppet_jax.puppeteers._kernels import standardise
from train.commands.train import parse

QUICK = study.read(study.FOLDER / "quick.toml")
# Stands for python -m train: learns at once.
TRAINER = """
import json, pathlib, sys
if "bench.evaluated" in sys.argv:
    print("{}")
    sys.exit("refused" in sys.argv[3])
if "--data=no-such-set" in sys.argv:
    sys.exit("no-such-set: unknown")
folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir(exist_ok=True)
seed = int(sys.argv[sys.argv.index("--seed") + 1])
(folder / "config.json").write_text(json.dumps({"config": {"width": 8}, "git_revision": "1"}))
counts = {"generator": 50, "normalisation": 10, "head": 20, "total": 80, "static_twin": 130}
names = ("evaluated_on", "test_images", "epochs", "steps", "train_seconds")
summary = {"test_accuracy": 0.5 + seed / 10, "parameters": counts, **dict.fromkeys(names, 1)}
(folder / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def options(tmp_path):
    return accuracy.Accuracy(study="quick", folder=tmp_path / "runs", output=tmp_path)


@pytest.fixture
def train_at_once(tmp_path, monkeypatch):
    """A function that sets the study's rows, each with its seeds and more arguments; their runs end at once."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{TRAINER}")
    program.chmod(0o700)
    monkeypatch.setattr(accuracy.sys, "executable", str(program))

    def set_rows(**rows):
        made = [
            dataclasses.replace(QUICK.rows[0], name=name, seeds=seeds, arguments=(*QUICK.rows[0].arguments, *more))
            for name, (seeds, *more) in rows.items()
        ]
        monkeypatch.setattr(accuracy.studies, "read", lambda _: dataclasses.replace(QUICK, rows=tuple(made)))

    return set_rows


def result(options):
    return json.loads((options.output / "quick.json").read_text())


def test_a_study_is_trained_and_measured(options, capsys):
    assert accuracy.run(dataclasses.replace(options, rows=("main",))) == 0
    assert "| static |" in capsys.readouterr().out
    found = result(options)
    ((run,), (line,)) = found["runs"], found["tables"]["main"]
    assert line["accuracy"] == line["least"] == line["greatest"] == run["accuracy"]
    assert line["generator"] == 8 * 9 + 5 * 8 * 8 * 9
    assert run["revision"] is None or len(run["revision"]) >= 40
    assert (line["kernel_compression"], line["evaluated_on"]) == (1.0, "test")
    assert "static CNN" in (options.output / "quick_pareto.svg").read_text()
    assert (options.output / "quick_pareto.png").stat().st_size > 5000
    assert line["bits"] == run["bits"]
    assert line["bits"]["32"] == {"bytes": 4 * line["total"], "accuracy": run["accuracy"]}
    others = 6 * 2 * 8 + 10  # normalisation and the head's bias; rows of kernels and of the head have a scale
    kernels, rows = line["total"] - others, 6 * 8 + 8
    assert line["bits"]["4"]["bytes"] == 2 * others + kernels / 2 + 2 * rows


def test_trains_what_is_missing(options, train_at_once, capsys):
    train_at_once(a=((0, 1),), b=((0,), "--width=9"))
    assert accuracy.run(dataclasses.replace(options, rows=("a",))) == 0
    (line,) = result(options)["tables"]["main"]
    assert sorted(line["seeds"]) == [0, 1]
    assert [line[key] for key in ("accuracy", "least", "greatest")] == pytest.approx([0.55, 0.5, 0.6])
    assert (line["kernel_compression"], line["compression"]) == (100 / 50, 130 / 80)
    # A row whose flags change is another measurement, in place of the old one.
    assert accuracy.run(options) == 0
    assert len(list(options.folder.glob("*.log"))) == 3
    train_at_once(a=((0, 1),), b=((0,), "--width=10"))
    assert accuracy.run(options) == 0
    assert "1 of 3 runs are missing" in capsys.readouterr().err
    assert len(result(options)["runs"]) == 3
    # Of a row that has fewer seeds now, those of the old flags are no further seeds.
    train_at_once(a=((1,), "--learning-rate=0.02"))
    assert accuracy.run(options) == 0
    assert [run["seed"] for run in result(options)["runs"] if run["row"] == "a"] == [1]


def test_a_run_that_fails_or_cannot_be_measured_further_is_told(options, train_at_once, capsys):
    train_at_once(refused=((0,),), bad=((0,), "--data=no-such-set"))
    assert accuracy.run(options) == 1
    assert result(options)["runs"] == []
    told = capsys.readouterr().err
    assert "refused, seed 0: could not be measured further" in told
    assert "bad-seed0.log" in told
    assert "no-such-set" in (options.folder / "bad-seed0.log").read_text()


@pytest.mark.parametrize("name", study.NAMES)
def test_rows_of_a_study_have_flags_that_train_takes(name):
    rows = study.read(study.FOLDER / f"{name}.toml").rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        config = parse([*row.arguments, "--seed", "0"])
        assert config.puppeteer == row.puppeteer
        assert (config.evaluate_on == "test") == (row.part in ("main", "own", "twin", "adapting", "exits", "digits"))


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("Separable", {}, 6 * 2 + 2 * 9 + 4 * 6 + 6 * 9),
        ("Synecdoche", {"kind": "DCT", "embedding_dim": 5}, 2 * 5),
    ],
)
def test_rivals_make_kernels_from_what_they_store(name, options, parameters):
    shapes = ((6, 2, 3, 3), (4, 6, 3, 3))
    rival = named_function(f"bench.peers.generators:{name}")(shapes, rngs=nnx.Rngs(0), **options)
    kernels = rival(6.5)
    assert tuple(kernel.shape for kernel in kernels) == shapes
    for kernel, (_, c_in, _, _) in zip(kernels, shapes, strict=True):
        np.testing.assert_allclose(np.mean(kernel, (1, 2, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(np.var(kernel, (1, 2, 3)), 2 / (9 * c_in), rtol=0.05)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(rival, nnx.Param))) == parameters
    if name == "Separable":  # before it is standardised, each tap is the same matrix with its columns scaled
        ((pointwise, *_), (depthwise, *_)) = rival.pointwise, rival.depthwise
        expected = standardise(jnp.einsum("oi,xiyz->oiyz", pointwise[...], depthwise[...]))
        np.testing.assert_allclose(kernels[0], expected, rtol=1e-5, atol=1e-6)


def test_shuffled_complexity_is_spread_as_the_data_s_own_and_ignores_mirroring():
    images = cifar.images(cifar.complexities(256), pj.complexity)
    shuffled = np.asarray(jax.jit(complexity_of_another)(images))
    np.testing.assert_array_equal(shuffled, complexity_of_another(images[:, :, ::-1].astype(np.float32) / 255))
    own = np.asarray(pj.complexity(images))
    assert abs(np.corrcoef(shuffled, own)[0, 1]) < 0.2
    np.testing.assert_allclose(np.quantile(shuffled, [0.1, 0.5, 0.9]), np.quantile(own, [0.1, 0.5, 0.9]), atol=0.1)
