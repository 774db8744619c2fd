"""mkdocs hook: documents outside docs/ are pages of the site too, written once.

The documents at the repository's root, and the README of each example, become pages. A link between any two documents is
written as a path of the repository; here it becomes the path of the site.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File at the root -> page of the site."""

DOCS = "docs/"
LINK = re.compile(r"\]\((?!https?://|#|mailto:)([^)\s#]+)(#[\w-]+)?\)")


def examples(root: Path) -> dict[str, str]:
    """README of an example -> page of the site."""
    found = sorted(root.glob("examples/*/README.md"))
    return {path.relative_to(root).as_posix(): f"examples/{path.parent.name}.md" for path in found}


def pages(root: Path) -> dict[str, str]:
    """Every document outside docs/ -> page of the site."""
    return ROOT_PAGES | examples(root)


def site_links(markdown: str, source: str, known: dict[str, str]) -> str:
    """The text of the document `source` (a path of the repository) with its links as the site has them."""
    here = posixpath.dirname(page_of(source, known))

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        return f"]({posixpath.relpath(page_of(target, known), here or '.')}{match[2] or ''})"

    return LINK.sub(link, markdown)


def page_of(path: str, known: dict[str, str]) -> str:
    """Where the site has a document of the repository."""
    return known.get(path, path.removeprefix(DOCS))


def on_config(config: Any) -> Any:
    """Add the examples that are there to the navigation."""
    found = examples(Path(config.config_file_path).parent)
    if found:
        config.nav.insert(2, {"Examples": list(found.values())})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the documents outside docs/ to the site's files."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    known = pages(root)
    for source, page in known.items():
        content = site_links((root / source).read_text(encoding="utf-8"), source, known)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Links of pages in docs/. A page from elsewhere has its links already."""
    source = page.file.abs_src_path
    if source is None or not Path(source).is_relative_to(config.docs_dir):
        return markdown
    root = Path(config.config_file_path).parent
    return site_links(markdown, Path(os.path.relpath(source, root)).as_posix(), pages(root))
