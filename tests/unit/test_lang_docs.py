"""The examples of the language's pages run (on the fake backend), one page after the other."""

import re
from pathlib import Path

import pytest

import sgl_lang as sgl
from sgl_lang.testing import FakeBackend

PAGES = sorted((Path(__file__).parents[2] / "docs" / "language").glob("*.md"))
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_of_the_docs(page, capsys):
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in _BLOCK.finditer(text):
        first = text[: block.start(1)].count("\n")
        for at, line in enumerate(block[1].splitlines()):
            lines[first + at] = line
    assert any(lines), "a page without an example"
    sgl.set_default_backend(FakeBackend())
    try:
        exec(compile("\n".join(lines), str(page), "exec"), {"__name__": page.stem})
    finally:
        sgl.set_default_backend(None)


def test_links_between_pages():
    names = {page.name for page in PAGES}
    for page in PAGES:
        assert set(re.findall(r"\]\(([a-z_]+\.md)", page.read_text(encoding="utf-8"))) <= names
