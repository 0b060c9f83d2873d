"""The documents of Thoraq and the commands in them: what the tests of documents have in common."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"


def pages() -> list[Path]:
    """Every page, at the root and in docs/; not the changelog, which speaks of earlier versions."""
    found = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
    return sorted([README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *found])


def name_of(page: Path) -> str:
    """How a test's output calls a page."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The page's code blocks in this language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def console_commands() -> list[tuple[str, str]]:
    """(page, command) for each line that a `console` block has typed; comments and continuations are taken care of."""
    return [
        (name_of(page), command.partition("  #")[0].strip())
        for page in pages()
        for block in blocks(page, "console")
        for command in re.findall(r"^\$ (.*)$", block.replace("\\\n", ""), re.MULTILINE)
    ]
