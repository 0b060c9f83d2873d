"""The table of docs/operate/settings.md, from the settings: `python -m tests.settings_table` writes it."""

from __future__ import annotations

from pathlib import Path

from shared.config import PREFIX, Settings, is_secret

PAGE = Path(__file__).parents[1] / "docs" / "operate" / "settings.md"
BEGIN = "<!-- settings: written by `python -m tests.settings_table`, held by tests/test_docs.py -->\n"
END = "<!-- /settings -->"


def table() -> str:
    """A Markdown row per setting."""
    rows = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else "" if is_secret(name) else _plain(field.default)
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _plain(value: object) -> str:
    text = ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
    return f"`{text}`" if text else ""


def with_table(page: str) -> str:
    """The page with the table as it should be."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
