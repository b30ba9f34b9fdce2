"""Runs compared: the table against the files' own numbers, the figure as a file, and folders in any state."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from train.__main__ import main
from train.commands import plot
from train.errors import UserError
from train.plots import compared_run
from train.runs import parameters

ROOT = Path(__file__).parents[1]
CONFIG = {"data": "digits", "preset": "puppet_xs", "puppeteer": "ode", "seed": 0, "epochs": 4, "evaluate_on": "test"}


def metrics(epoch: int, seed: int = 0) -> dict:
    return {
        "epoch": epoch,
        "step": 45 * epoch,
        "train_loss": 2.0 / (epoch + seed),
        "train_accuracy": 1 - 0.5 / (epoch + seed),
        "test_loss": 2.5 / (epoch + seed),
        "test_accuracy": 1 - 0.75 / (epoch + seed + 1),
        "learning_rate": 0.001,
        "seconds": 1.5,
        "images_per_second": 1000.0,
    }


def make_run(
    folder: Path, *, epochs: int = 4, finished: bool = True, total: int = 10_346, seed: int = 0, **config
) -> Path:
    folder.mkdir(parents=True)
    lines = [metrics(epoch, seed) for epoch in range(1, epochs + 1)]
    (folder / "config.json").write_text(json.dumps({"config": CONFIG | {"seed": seed, "out": str(folder)} | config}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        summary = {
            "evaluated_on": "test",
            "test_accuracy": lines[-1]["test_accuracy"],
            "test_loss": lines[-1]["test_loss"],
            "parameters": {"total": total},
            "compression": 4.55,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def rows(text: str) -> list[list[str]]:
    """The cells of a table: what two blanks or more part."""
    lines = text.split("\n\n")[0].splitlines()
    return [[cell for cell in line.split("  ") if cell.strip()] for line in lines]


def test_runs_are_compared_in_a_table_and_a_figure(tmp_path, capsys):
    a = make_run(tmp_path / "a", puppeteer="ode")
    b = make_run(tmp_path / "b", puppeteer="stored", total=47_082, seed=1, epochs=3)
    out = tmp_path / "figure.png"
    assert main(["plot", str(a), str(b), "--out", str(out)]) == 0
    said = capsys.readouterr()
    header, first, second = rows(said.out)
    cells = [cell.strip() for cell in header]
    assert cells == ["run", "epochs", "accuracy", "loss", "parameters", "compression", "s/epoch", "state"]
    assert [cell.strip() for cell in first] == [
        "ode, seed 0", "4", "85.00%", "0.6250", "10,346", "4.55x", "1.5", "finished",
    ]  # fmt: skip
    assert [cell.strip() for cell in second][:5] == ["stored, seed 1", "3", "85.00%", "0.6250", "47,082"]
    assert said.err == ""
    assert said.out.splitlines()[-1] == f"figure: {out}"
    # Not an empty picture: paper, ink, and the colours of both runs.
    from PIL import Image

    pixels = np.asarray(Image.open(out).convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert np.sum(np.all(pixels == colour, axis=-1)) > 500
    assert np.mean(np.all(pixels == 255, axis=-1)) > 0.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "figure.png"]


@pytest.mark.parametrize(("suffix", "start"), [(".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89PNG")])
@pytest.mark.parametrize("against", ["epoch", "seconds"])
def test_the_suffix_says_the_kind_and_the_same_runs_give_the_same_bytes(tmp_path, capsys, suffix, start, against):
    run = make_run(tmp_path / "run $x_1$")
    contents = []
    for name in ("one", "two"):
        assert main(["plot", str(run), "--against", against, "--out", str(tmp_path / (name + suffix))]) == 0
        contents.append((tmp_path / (name + suffix)).read_bytes())
    assert contents[0].startswith(start)
    assert contents[0] == contents[1]


def test_curves_hold_the_numbers_of_the_files(tmp_path):
    from train.plots import comparison

    run = compared_run.read_run(make_run(tmp_path / "a"))
    figure, axes = comparison.plt.subplots(1, 3)
    comparison._curves(axes, [("a", run)], "seconds")
    for axis, quantity in zip(axes, ("train_loss", "test_loss", "test_accuracy"), strict=True):
        (line,) = axis.get_lines()
        np.testing.assert_allclose(line.get_xdata(), [1.5, 3.0, 4.5, 6.0])
        np.testing.assert_allclose(line.get_ydata(), [metrics(epoch)[quantity] for epoch in (1, 2, 3, 4)])
    comparison.plt.close(figure)


def test_runs_of_the_palette_are_all_told_apart():
    from train.plots.comparison import COLOURS, DASHES, MARKERS

    looks = {(COLOURS[i % 7], str(DASHES[i % 5]), MARKERS[i % 8]) for i in range(280)}
    assert (len(COLOURS), len(DASHES), len(MARKERS)) == (7, 5, 8)
    assert len(looks) == 280


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([{"seed": 1}, {"seed": 2}], ["seed 1", "seed 2"]),
        (
            [{"puppeteer": "ode", "learning_rate": 0.1}, {"puppeteer": "stored", "learning_rate": 0.1}],
            ["ode", "stored"],
        ),
        ([{"out": "x"}, {"out": "y"}], ["run0", "run1"]),
        ([{}, {"seed": 1}, {"seed": 2}], ["run0", "seed 1", "seed 2"]),
        ([{"seed": 1}, {"seed": 2, "ema": 0.9}], ["seed 1", "seed 2"]),
        ([{}, {"seed": 2}], ["run0", "run1"]),
        ([{}, {}], ["run0", "run1"]),
        ([{"seed": 1}, {"seed": 1}, {"seed": 2}], ["seed 1 (run0)", "seed 1 (run1)", "seed 2"]),
        ([{"seed": [1] * 99}, {"seed": 2}], ["run0", "seed 2"]),
        ([{"preset": "a\x1b[31m\n"}, {"preset": "b"}], ["a\\x1b[31m\\n", "b"]),
        ([{"seed": 1}], ["run0"]),
    ],
)
def test_labels_say_what_differs(configs, expected):
    assert compared_run.labels([(Path(f"runs/run{i}"), config) for i, config in enumerate(configs)]) == expected


def test_what_a_resumed_run_may_change_is_no_label():
    from train import config

    assert set(getattr(config, "FREE", ())) <= compared_run.NOT_TRAINED


def test_labels_of_folders_of_one_name_are_their_paths():
    assert compared_run.labels([(Path("a/run"), {}), (Path("b/run"), {})]) == ["a/run", "b/run"]


def test_an_unfinished_run_is_shown_as_far_as_it_got(tmp_path, capsys):
    done = make_run(tmp_path / "done")
    stopped = make_run(tmp_path / "stopped", epochs=2, finished=False, puppeteer="stored")
    arrays = {"a": np.zeros((3, 5), np.float32), "b": np.zeros(6, np.float32)}
    header = {"format": parameters.FORMAT, "about": "{}"}
    safetensors.numpy.save_file(arrays, stopped / "params.safetensors", metadata=header)
    assert main(["plot", str(done), str(stopped), "--out", str(tmp_path / "figure.svg")]) == 0
    *_, last = rows(capsys.readouterr().out)
    assert [cell.strip() for cell in last] == [
        "stored", "2", "75.00%", "1.2500", "21", "–", "1.5", "unfinished, epoch 2 of 4",
    ]  # fmt: skip


def test_damaged_lines_are_named_and_the_rest_is_read(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    good = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*good[:2], "{", "[]", "null", "7", "{}", *good[3:]]))
    assert main(["plot", str(run), "--out", str(tmp_path / "figure.png")]) == 0
    said = capsys.readouterr()
    assert "metrics.jsonl, line 3: damaged" in said.err
    assert "and 2 more damaged lines" in said.err
    assert "unfinished" not in said.out
    assert rows(said.out)[1][-1].strip() == "5 damaged lines"


def test_runs_that_cannot_be_read_are_named_and_the_rest_is_compared(tmp_path, capsys):
    good = make_run(tmp_path / "good")
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = make_run(tmp_path / "nothing")
    (nothing / "metrics.jsonl").write_text("")
    bad = [empty, nothing, tmp_path / "absent", good / "config.json"]
    out = tmp_path / "figure.png"
    assert main(["plot", *map(str, bad), str(good), str(good), "--out", str(out)]) == 1
    said = capsys.readouterr()
    for folder in bad:
        assert f"left out: {folder}" in said.err
    assert len(rows(said.out)) == 2  # the header, and the good run once
    out.unlink()
    assert main(["plot", *map(str, bad), "--out", str(out)]) == 2
    assert "none of them can be compared" in capsys.readouterr().err
    assert not out.exists()


def test_what_to_put_right_is_said(tmp_path, capsys):
    run = str(make_run(tmp_path / "run"))
    for arguments, message in [
        (["plot", run, "--out", "figure.gif"], "ends in .png, .svg, .pdf"),
        (["plot", run, "--out", str(tmp_path / "absent" / "figure.png")], "cannot be written (No such file"),
        (["plot"], "RUN: got none"),
    ]:
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_mutated_run_folders_never_end_in_a_traceback(tmp_path, capsys):
    """Seeded mutations of every file that is read: each run is read or refused by name."""
    run = make_run(tmp_path / "run")
    files = {path: path.read_bytes() for path in run.iterdir()}
    chance = random.Random(0)
    refused: list[str] = []
    read = 0
    for _ in range(600):
        path, content = chance.choice(list(files.items()))
        path.write_bytes(mutate(content, chance))
        try:
            found = compared_run.read_run(run)
            plot.report(compared_run.labels([(found.folder, found.config), (tmp_path, CONFIG)])[:1], [found])
            read += 1
        except UserError as error:
            refused.append(str(error))
        path.write_bytes(content)
    assert read > 300  # a damaged line or summary costs no run
    assert len(refused) > 5
    assert all(str(run) in text for text in refused)


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Cut short, bytes changed, a part repeated, or a value swapped for one of another type."""
    kind = chance.randrange(4)
    if kind == 0:
        return content[: chance.randrange(len(content))]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(chance.randrange(1, 9)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    if kind == 2:
        at, length = chance.randrange(len(content)), chance.randrange(1, 99)
        return content[:at] + content[at : at + length] * 2 + content[at + length :]
    parts = content.split(b": ")
    at = chance.randrange(1, len(parts)) if len(parts) > 1 else 0
    rest = parts[at].partition(b",")
    parts[at] = chance.choice((b"null", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"true", b"9" * 400)) + rest[1] + rest[2]
    return b": ".join(parts)


def test_comparing_finished_runs_imports_no_jax(tmp_path):
    run = make_run(tmp_path / "run")
    code = (
        "import sys; from train.__main__ import main; "
        f"code = main(['plot', {str(run)!r}, '--out', {str(tmp_path / 'f.png')!r}]); "
        "print([m for m in ('jax', 'puppet_jax', 'tensorboardX') if m in sys.modules], code)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.splitlines()[-1] == "[] 0"
