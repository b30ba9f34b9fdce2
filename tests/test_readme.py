import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_as_printed(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 2
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["logits"].shape == scope["prediction"].logits.shape == (4, 10)
    assert scope["depth"].shape == scope["complexity"].shape == (4,)
    assert "static twin" in capsys.readouterr().out


def test_ci_runs_the_readmes_test_command():
    commands = re.findall(r"^ *(python3 -m venv .*)$", README, flags=re.M)
    assert len(commands) == 2
    train, test = commands
    assert train.endswith("-m train")
    assert test.endswith("-m pytest")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"sed -n 's/\^ \*\\\(([^/]*)\\\)\$/", script)
    assert re.fullmatch(pattern, test)


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:txt|md|json|toml|py))`", README):
        assert (ROOT / name).is_file(), name
