"""docs/reference/problems.md, from the classes of shared/errors.py: `python -m tests.problems_table` writes it."""

from __future__ import annotations

from pathlib import Path

from api.http.problems import problem_types
from shared.errors import meaning_of

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "problems.md"
INTRODUCTION = """# Problem types

Every error is answered as `application/problem+json` (RFC 9457). The last part of its `type` is a row of this table,
which a running installation shows at `/problems`; a job, an image or an item of a batch that failed carries the same
types. `detail` says what happened this time, `instance` holds the request id to ask about. What can help when it is
tried again unchanged is marked with a retry.

Written by `python -m tests.problems_table` from shared/errors.py, held by tests/test_docs.py.

| type | status | retry | meaning | remedy |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{kind.type}` | {kind.status} | {'' if kind.permanent else 'yes'} | {kind.title}. {meaning_of(kind)} |"
        f" {kind.remedy} |\n"
        for kind in problem_types()
    ]
    return INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
