"""The benchmark notebook: it runs in quick mode, and what it shows of bench/results/ is what the files hold."""

import pathlib
import re
import warnings

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs the notebook extra: nbclient")
nbformat = pytest.importorskip("nbformat", reason="needs the notebook extra: nbformat")

PATH = pathlib.Path(__file__).parent.parent / "bench" / "puppet_cnn.ipynb"
COMMITTED = nbformat.read(PATH, as_version=4)
FIGURES = ("complexity", "schedule", "kernels", "continuous", "bins", "speed")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    figures = tmp_path_factory.mktemp("figures")
    notebook = nbformat.from_dict(COMMITTED)
    for cell in notebook.cells:  # one round, one training of one epoch: no number is looked at
        cell.source = re.sub(r"\d+ if QUICK", "1 if QUICK", cell.source)
        cell.source = cell.source.replace('in ("stored", "continuous"):', 'in ("stored",):')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PUPPET_FIGURES", str(figures))
        patch.setenv("PUPPET_NOTEBOOK", "quick")
        nbclient.NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(PATH.parent)}}
        ).execute()  # raises what a cell raises
    return notebook, figures


def shown(cell):
    """What a code cell displays as Markdown."""
    outputs = [output for output in cell.outputs if "data" in output]
    return ["".join(output.data.get("text/markdown", "")) for output in outputs]


def test_it_runs_and_writes_the_figures(executed):
    notebook, figures = executed
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code[1:])  # the first one defines
    for name in FIGURES:
        for end in ("svg", "png"):
            assert (figures / f"{name}.{end}").stat().st_size > 1000
            assert (PATH.parent / "figures" / f"{name}.{end}").is_file(), "committed for the README"


def test_what_it_shows_of_the_results_is_what_the_files_hold(executed):
    notebooks = (executed[0], COMMITTED)
    fresh, old = ([c for c in n.cells if "from-results" in c.metadata.get("tags", [])] for n in notebooks)
    assert len(old) == 3
    for a, b in zip(fresh, old, strict=True):
        if shown(a) != shown(b):
            warnings.warn("the notebook is older than the results; run it again and commit it", stacklevel=1)
        assert any("|" in text for text in shown(a))


def test_it_is_committed_as_executed_from_top_to_bottom():
    cells = [cell for cell in COMMITTED.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type in ("error", "stream")]
