"""mkdocs hook: the documents at the repository's root are pages of the site too, written once.

A link from the root to docs/reference.md, or from docs/ to ../README.md, is the same page on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File at the root -> page of the site."""

LINK = re.compile(r"\]\((?:\.\./|docs/)?([\w.-]+\.md)(#[\w-]+)?\)")


def site_links(markdown: str) -> str:
    """The same text with links between documents as the site has them."""
    return LINK.sub(lambda match: f"]({PAGES.get(match[1], match[1])}{match[2] or ''})", markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add the root's documents to the site's files."""
    from mkdocs.structure.files import File

    root = Path(config.config_file_path).parent
    for source, page in PAGES.items():
        content = site_links((root / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links of pages in docs/ that lead to the root's documents."""
    return site_links(markdown)
