"""Six steps of a training, and all that its folder tells of them, computed once more by hand.

Independent of train/: images drawn here, NumPy in float64, published formulas. JAX gives the random draws, and the
library the net and, by jax.grad, the gradient of the loss that is written here.
"""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
import reference
from flax import nnx
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import load_file

import puppet_jax as pj
from train.__main__ import main
from train.revision import revision
from train.steps import optimiser

SEED, BATCH, STEPS, PER_EPOCH, EMA, SMOOTHING, DECAY, CLIP, SIDE = 1, 5, 6, 5, 0.5, 0.1, 0.3, 0.2, 32
FLAGS = [
    *(f"--seed={SEED}", f"--batch-size={BATCH}", "--epochs=9", f"--max-steps={STEPS}", f"--ema={EMA}"),
    *(f"--label-smoothing={SMOOTHING}", f"--weight-decay={DECAY}"),
    *("--preset=puppet_xs", "--puppeteer=stored", "--width=4", "--augment=flip-crop", "--measurement.depth=complexity"),
]
# Two of six steps rise; at the start of the third the decay is at its beginning, after the sixth at its end.
PEAKS = {"adamw": 0.02, "muon": 0.03}
RATES = [1 / 2, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]
DECAYED = {"puppet.head", *(f"puppeteer.kernels.{layer}" for layer in range(6))}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A class folder, 22 images to train on and 9 to test with; of noise that is finer in half of the images, whose
    depth is cut off: of two in three to train on, of one in three to test with."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    splits = {}
    for split, count, fine in (("train", 22, 2), ("test", 9, 1)):
        images, labels = [], sorted(k % 2 for k in range(count))
        for k, label in enumerate(labels):
            levels = 256 if k % 3 < fine else 6 + 8 * (k % 4) + 40 * label
            images.append(rng.integers(0, levels, (SIDE, SIDE, 1), dtype=np.uint8))
            path = folder / split / "ab"[label] / f"{k:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[-1][..., 0]).save(path)
        splits[split] = np.stack(images), np.array(labels)
    return folder, splits


@pytest.fixture(scope="module", params=PEAKS)
def run(request, pictures, tmp_path_factory):
    """A run through the command line: its folder, what its figures show, and what it was asked for."""
    peak = PEAKS[request.param]
    folder, drawn = tmp_path_factory.mktemp("runs") / "run", {}

    def record(figure, path, **_):
        path.write_bytes(b"\x89PNG")
        texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        texts += [text.get_text() for axes in figure.axes for text in axes.texts]
        drawn[path.name] = texts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", record)
        patch.setattr(optimiser, "WARMUP", 0.34)
        patch.setattr(optimiser, "CLIP_NORM", CLIP)
        which = [f"--optimiser={request.param}", f"--learning-rate={peak}"]
        assert main([*FLAGS, *which, "--data", str(pictures[0]), "--out", str(folder)]) == 0
    return SimpleNamespace(folder=folder, drawn=drawn, optimiser=request.param, peak=peak)


def measured(images):
    """Complexity to the centre of its quarter of a bit, and ⌊1/dl⌋, of each image."""
    h = np.array([reference.complexity(image) for image in images]) // 0.25 * 0.25 + 0.125
    return h, np.array([math.floor(1 / reference.step_size(each)) for each in h])


def augmented(images, step):
    """Cropped and mirrored, each by its own key: of the seed, the step and its place in the batch."""
    found = []
    for place, image in enumerate(images):
        key = jax.random.fold_in(jax.random.key(SEED), 2**32 - 1)
        for_crop, for_flip = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, step), place))
        top, left = np.asarray(jax.random.randint(for_crop, (2,), 0, 2 * (SIDE // 8) + 1))
        image = np.pad(image[..., 0], SIDE // 8, mode="reflect")[top:, left:][:SIDE, :SIDE, None]
        found.append(image[:, ::-1] if jax.random.bernoulli(for_flip) else image)
    return np.stack(found)


def cross_entropy(logits, labels, smoothing=0.0):
    targets = (1 - smoothing) * jax.nn.one_hot(labels, 2) + smoothing / 2
    return -jnp.sum(targets * jax.nn.log_softmax(logits), -1)


def orthogonal(matrix):
    """Five steps of Newton and Schulz, with the coefficients that Jordan chose."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.fixture(scope="module")
def by_hand(run, pictures):
    """The averaged parameters, the lines of metrics, and which test images the average gets right."""
    (images, labels), (test_images, test_labels) = pictures[1].values()
    model = pj.create("puppet_xs", puppeteer="stored", width=4, num_classes=2, in_channels=1, rngs=nnx.Rngs(SEED))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss_of(params, images, labels):
        logits = nnx.merge(graphdef, params, rest)(images)
        return cross_entropy(logits, labels, SMOOTHING).mean(), logits

    gradient_of, logits_of = jax.jit(jax.value_and_grad(loss_of, has_aux=True)), jax.jit(loss_of)
    paths = [path for path, _ in nnx.to_flat_state(params)]
    names = [".".join(map(str, path)) for path in paths]
    state = lambda values: nnx.from_flat_state(  # noqa: E731
        [(path, nnx.Param(jnp.asarray(values[name], jnp.float32))) for path, name in zip(paths, names, strict=True)]
    )
    now = {n: np.asarray(leaf[...], float) for n, (_, leaf) in zip(names, nnx.to_flat_state(params), strict=True)}
    first, second = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    history, seen, sums = [], [], []
    for step in range(STEPS):
        epoch, place = step // PER_EPOCH + 1, step % PER_EPOCH * BATCH
        rows = np.random.default_rng((SEED, epoch)).permutation(len(labels))
        rows = np.concatenate([rows, rows[:3]])[place : place + BATCH]
        batch = augmented(images[rows], step)
        (_, logits), gradients = gradient_of(state(now), batch, labels[rows])
        accuracy = np.mean(np.asarray(logits).argmax(-1) == labels[rows])
        h, d = measured(batch)
        sums.append([cross_entropy(logits, labels[rows]).mean(), accuracy, h.mean(), np.minimum(d, 6).mean()])
        g = {n: np.asarray(leaf[...], float) for n, (_, leaf) in zip(names, nnx.to_flat_state(gradients), strict=True)}
        norm = math.sqrt(sum((each**2).sum() for each in g.values()))
        assert norm > CLIP
        rate = run.peak * RATES[step]
        t = step + 1
        for name in names:
            each = g[name] * CLIP / norm
            if run.optimiser == "muon" and name.startswith("puppeteer.kernels"):
                # Momentum and Nesterov's look ahead; root mean square 0.2 (Liu et al. 2025).
                first[name] = 0.95 * first[name] + 0.05 * each
                ahead = 0.95 * first[name] / (1 - 0.95 ** (t + 1)) + 0.05 * each / (1 - 0.95**t)
                matrix = ahead.reshape(len(ahead), -1)
                update = (0.2 * math.sqrt(max(matrix.shape)) * orthogonal(matrix)).reshape(ahead.shape)
            else:
                first[name] = 0.9 * first[name] + 0.1 * each
                second[name] = 0.999 * second[name] + 0.001 * each**2
                update = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.999**t)) + 1e-8)
            now[name] = now[name] - rate * (update + DECAY * now[name] * (name in DECAYED))
        seen.append(dict(now))
        weights = EMA ** np.arange(step, -1, -1.0)
        average = {name: np.tensordot(weights, [p[name] for p in seen], 1) / weights.sum() for name in names}
        if step + 1 in (PER_EPOCH, STEPS):
            _, logits = logits_of(state(average), test_images, test_labels)
            correct = np.asarray(logits).argmax(-1) == test_labels
            means = np.mean(sums, 0)
            history.append(
                {"epoch": epoch, "step": step + 1, "learning_rate": rate}
                | dict(zip(("train_loss", "train_accuracy", "complexity_mean", "depth_mean"), means, strict=True))
                | {"test_loss": cross_entropy(logits, test_labels).mean().item(), "test_accuracy": correct.mean()}
            )
            sums = []
    return SimpleNamespace(average=average, history=history, correct=correct)


def test_the_parameters_saved_are_those_by_hand(run, by_hand):
    saved = load_file(run.folder / "params.safetensors")
    assert saved.keys() == by_hand.average.keys()
    for name, expected in by_hand.average.items():
        apart = np.abs(saved[name] - expected) / run.peak
        # Of a gradient that is nearly zero Adam makes a step all the same, out of rounding.
        assert np.quantile(apart, 0.9) < 3e-3, name
        assert np.max(apart) < 1e-2, name


def test_the_metrics_are_those_by_hand(run, by_hand):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for line, expected in zip(lines, by_hand.history, strict=True):
        images = BATCH * (PER_EPOCH if line["epoch"] == 1 else STEPS - PER_EPOCH)
        assert line.pop("images_per_second") * line.pop("seconds") == pytest.approx(images, rel=0.02)
        assert line == pytest.approx(expected, rel=1e-4)


def test_the_summary_and_figures_tell_of_each_split_what_is_so(run, by_hand, pictures):
    summary = json.loads((run.folder / "summary.json").read_text())
    (train_h, train_d), (test_h, test_d) = (measured(images) for images, _ in pictures[1].values())
    assert summary["clipped"] == {"train": np.mean(train_d > 6), "test": np.mean(test_d > 6)}
    assert summary["clipped"]["train"] != summary["clipped"]["test"]
    assert summary["complexity_mean_bits"] == pytest.approx({"train": train_h.mean(), "test": test_h.mean()}, rel=1e-6)
    for table, name, values in (("bin", "complexity", test_h), ("depth", "depth", np.minimum(test_d, 6))):
        rows = [(row[name], row["images"], row["accuracy"]) for row in summary[f"accuracy_by_{table}"]]
        assert rows == [
            (v, (values == v).sum(), pytest.approx(by_hand.correct[values == v].mean())) for v in np.unique(values)
        ]
        assert len(rows) > 1
    assert (summary["test_correct"], summary["test_images"]) == (by_hand.correct.sum(), 9)
    assert (summary["steps"], summary["epochs"], summary["max_depth"]) == (STEPS, 2, 6)

    for name, values in (("train", train_h), ("test", test_h)):
        assert f"{name}: n = {len(values)}, mean {values.mean():.2f} bits" in run.drawn["complexity.png"]
    for name, values in (("train", train_d), ("test", test_d)):
        label = f"{name}: mean {np.minimum(values, 6).mean():.2f}, {np.mean(values > 6):.1%} cut off"
        assert label in run.drawn["depth.png"]


def test_the_summary_tells_time_and_memory(run):
    summary = json.loads((run.folder / "summary.json").read_text())
    assert 0.05 < summary["compile_seconds"] < summary["total_seconds"]
    assert summary["train_seconds"] <= summary["loop_seconds"] + 0.01
    held = psutil.Process().memory_info().rss
    assert held / 4 < summary["peak_memory_bytes"] < 16 * held


def test_a_card_tells_the_recipe(run, tmp_path):
    assert main(["release", str(run.folder), "--name=of_noise", "--out", str(tmp_path)]) == 0
    named = {"adamw": "AdamW", "muon": "Muon"}[run.optimiser]
    assert (
        f"9 epochs, at most 6 steps, of batches of 5, {named}, peak learning rate {run.peak:g}, cosine decay after a "
        "warm-up of 10%, weight decay 0.3, gradients clipped to 1, augmentation flip-crop, label smoothing 0.1, moving "
        "average of parameters 0.5"
    ) in " ".join((tmp_path / "of_noise.md").read_text().split())


def test_a_revision_says_that_the_source_differs_from_it(tmp_path, monkeypatch):
    git = tmp_path / "git"
    for changes, expected in (("", "abc1"), ("echo ' M train/steps/loop.py'", "abc1+changes")):
        git.write_text(f'#!/bin/sh\ncase "$*" in *rev-parse*) echo abc1;; *status*) {changes or ":"};; esac\n')
        git.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert revision() == expected
