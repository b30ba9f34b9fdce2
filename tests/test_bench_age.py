"""The age of a result: by git, against the code that it measured."""

import os
import subprocess
from pathlib import Path

import pytest

from bench.report.age import age

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def repository(tmp_path):
    """A function that commits a file's new content and returns the commit; its ``root`` is the repository's."""
    root = tmp_path / "repository"
    root.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.hooksPath=/dev/null"]

    def git(*arguments):
        command = ["git", *who, "-C", str(root), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    def commit(name, content):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        git("add", "-A")
        git("commit", "-qm", name)
        return git("rev-parse", "HEAD")

    git("init", "-q")
    commit.root, commit.git = root, git
    return commit


def test_a_result_ages_when_what_it_measured_changes(repository):
    measured = repository("code/a.py", "1")
    paths = ("code", ":(exclude)code/aside.py")
    assert age(measured, paths, repository.root) == "not older than its code"
    repository("elsewhere.py", "1")
    repository("code/aside.py", "1")
    assert age(measured, paths, repository.root) == "not older than its code"
    assert age(measured + "+changes", paths, repository.root) == (
        "not older than its code; files differed from that commit when it was measured"
    )
    repository("code/a.py", "2")
    told = age(measured, paths, repository.root)
    assert told.startswith("**OLDER than its code**: 1 commit since then touched it")
    last = repository("code/b.py", "1")
    repository("elsewhere.py", "2")
    told = age(measured, paths, repository.root)
    assert told.startswith("**OLDER than its code**: 2 commits since then")
    assert last[:7] in told
    assert age(last, paths, repository.root) == "not older than its code"


def test_a_commit_on_another_branch_is_older_than_what_it_lacks(repository):
    first = repository("code/a.py", "1")
    repository.git("checkout", "-qb", "aside")
    measured = repository("elsewhere.py", "1")
    repository.git("checkout", "-q", "-")
    repository("code/a.py", "2")
    assert "OLDER" in age(measured, ("code",), repository.root)
    assert "OLDER" in age(first, ("code",), repository.root)


@pytest.mark.parametrize(
    ("revision", "paths", "why"),
    [
        (None, ("code",), "names no revision"),
        ("0" * 40, ("code",), "does not hold this commit"),
        ("not a revision", ("code",), "does not hold this commit"),
        ("HEAD", (), "does not say what it measures"),
    ],
)
def test_an_age_that_cannot_be_known_is_unknown(repository, revision, paths, why):
    repository("code/a.py", "1")
    told = age(revision, paths, repository.root)
    assert told.startswith("age unknown: ")
    assert why in told


def test_a_hooks_environment_does_not_lead_elsewhere(repository, tmp_path, monkeypatch):
    measured = repository("code/a.py", "1")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert age(measured, ("code",), repository.root) == "not older than its code"


def test_without_a_repository_or_git_the_age_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert age("0" * 40, ("code",), tmp_path) == "age unknown: no git, or no repository here"
    monkeypatch.setenv("PATH", "")
    assert age("0" * 40, ("code",), ROOT) == "age unknown: no git, or no repository here"
