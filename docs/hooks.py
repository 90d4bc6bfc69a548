"""What mkdocs runs while it builds the site: pages from files outside ``docs/``, their links, and the API's sources.

Every Markdown file links to files as they lie in the repository, so that links work there. On the site README,
CONTRIBUTING, CHANGELOG and a few others are pages of their own, and links to them are rewritten here.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING

from griffe import Extension
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from typing import Any

    import griffe
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
#: Markdown outside ``docs/``, by its path in the repository, and its page.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/labels/README.md": "labels.md",
    "examples/README.md": "examples/index.md",
}
#: Other files that are shown as pages.
SHOWN = {
    **{str(path.relative_to(ROOT)): f"examples/{path.stem}.md" for path in sorted(ROOT.glob("examples/*.py"))},
    **{name: f"{name.replace('.', '-')}.md" for name in ("cluster.yaml", "kuberay.yaml")},
}
LICENCE = {"LICENSE": "license.md"}
_LANGUAGES = {".py": "python", ".yaml": "yaml"}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


# Pages ---------------------------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside ``docs/``."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for path, page in (SHOWN | LICENCE).items():
        language = _LANGUAGES.get(Path(path).suffix, "text")
        text = f"# {path}\n\n```{language}\n{(ROOT / path).read_text()}```\n"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of a page at pages of the site."""
    del config, files
    sources = {page: path for path, page in PAGES.items()}
    here = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    fences = _FENCE.findall(markdown)
    parts = [_LINK.sub(lambda link: _moved(link, here, page.file.src_uri), text) for text in _FENCE.split(markdown)]
    return "".join(part + fence for part, fence in zip(parts, [*fences, ""], strict=True))


def _moved(link: re.Match[str], here: str, page: str) -> str:
    start, target, anchor, end = link.groups(default="")
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    path = normpath(str(PurePosixPath(here).parent / target))
    if (ROOT / path).is_dir():
        path += "/README.md"
    found = (PAGES | SHOWN | LICENCE).get(path, path.removeprefix("docs/"))
    return f"{start}{relpath(found, str(PurePosixPath(page).parent))}{anchor}{end}"


# The API's sources ---------------------------------------------------------------------------------------------------


@event_priority(100)  # before mkdocstrings reads where the sources are
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let mkdocstrings read a copy of the package that has an ``__init__.py`` in every folder; list all decisions.

    The sub-packages are namespace packages behind links, which griffe refuses to enter.
    """
    global _view  # noqa: PLW0603 (mkdocs hooks are functions of a module)
    _view = Path(tempfile.mkdtemp(prefix="gennape-api-"))
    shutil.copytree(ROOT / "gennape", _view / "gennape", ignore=_no_code)
    for folder in (_view / "gennape").rglob("*/"):
        (folder / "__init__.py").touch()
    decisions = sorted(str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/adr/0*.md"))
    config.nav[-1]["Project"].append({"Decisions": ["adr/README.md", *decisions]})  # type: ignore[index]
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [str(_view)]  # type: ignore[attr-defined]
    return config


def on_post_build(config: MkDocsConfig) -> None:
    """Remove the copy."""
    del config
    shutil.rmtree(_view, ignore_errors=True)


def _no_code(folder: str, names: list[str]) -> list[str]:
    return [
        name for name in names if not (name.endswith(".py") or Path(folder, name).is_dir()) or name == "__pycache__"
    ]


class Roles(Extension):
    """Reads ``:class:`X``` of docstrings as code, since Markdown has no roles, and ``Example:`` as a doctest."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of everything that is loaded."""
        del kwargs
        if obj.docstring:
            text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
