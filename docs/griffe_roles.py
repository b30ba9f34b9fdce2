"""Cross-references in docstrings, written as Sphinx roles, as links of mkdocstrings."""

import re

import griffe

ROLES = re.compile(r":(?:func|class|mod|meth|attr):`(~?)([\w.]+)`")


def link(found: re.Match, public: dict[str, str]) -> str:
    """``:func:`name``` as a link if the name is documented, else as code."""
    short, path = found.groups()
    shown = path.rpartition(".")[2] if short else path
    target = public.get(path.rpartition(".")[2])
    return f"[`{shown}`][{target}]" if target else f"`{shown}`"


class Roles(griffe.Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_) -> None:
        # A function that bears the name of its module is documented as the module's: griffe takes the name for that.
        modules = {name for name, each in pkg.members.items() if not each.is_alias and each.is_module}
        public = {name: f"{pkg.path}.{name}" + f".{name}" * (name in modules) for name in map(str, pkg.exports or ())}
        self._rewrite(pkg, public)

    def _rewrite(self, member: griffe.Object, public: dict[str, str]) -> None:
        if member.docstring:
            member.docstring.value = ROLES.sub(lambda found: link(found, public), member.docstring.value)
        for each in member.members.values():
            if not each.is_alias:
                self._rewrite(each, public)
