"""Whether a result is older than the code it measured, by git."""

import os
import subprocess
from pathlib import Path

from bench.report.words import ENGLISH, Language

# By these a hook's environment points git at the hook's repository.
_POINTERS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")

ROOT = Path(__file__).resolve().parent.parent.parent


def age(revision: str | None, paths: tuple[str, ...], root: Path = ROOT, say: Language = ENGLISH) -> str:
    """One clause on the age of what was measured at ``revision``.

    Args:
        revision: a commit, with something after a "+" if files differed from it; ``None`` where none was recorded.
        paths: what was measured, as git takes paths, from ``root``.
        root: of the repository.
        say: the language of the clause, given here in English.

    Returns:
        "OLDER than its code: …" if commits since then, on the way to HEAD, touched the paths; "not older than its
        code"; or "age unknown: …", with the reason.
    """
    if not revision:
        return say("age unknown: the file names no revision")
    if not paths:
        return say("age unknown: bench/report/measures.py does not say what it measures")
    commit, changed, _ = revision.partition("+")
    if _git(root, "rev-parse", "--git-dir") is None:
        return say("age unknown: no git, or no repository here")
    if _git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return say("age unknown: the repository does not hold this commit")
    since = _git(root, "log", "--format=%h %cs", f"{commit}..HEAD", "--", *paths)
    if since is None:
        return say("age unknown: git log failed")
    doubt = say("; files differed from that commit when it was measured") if changed else ""
    commits = since.splitlines()
    if not commits:
        return say("not older than its code") + doubt
    number = say("1 commit") if len(commits) == 1 else say("{n} commits", n=len(commits))
    last, _, date = commits[0].partition(" ")
    told = "**OLDER than its code**: {number} since then touched it, the last {last} of {date}"
    return say(told, number=number, last=last, date=date) + doubt


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, ``None`` if it failed or is not there."""
    environment = {name: value for name, value in os.environ.items() if name not in _POINTERS}
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, env=environment)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
