"""The table of learning rules in the docs is what running every cell gives."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location("rule_matrix", ROOT / "tools" / "rule_matrix.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["rule_matrix"] = module
    spec.loader.exec_module(module)
    return module


def settled(text):
    """Whether an untuned loss falls may hang on the processor; that it ran, and why it did not, may not."""
    return text.replace("rises", "✓").strip()


@pytest.mark.parametrize("name", ["networks", "optimizers"])
def test_the_docs_have_what_runs(matrix, name):
    text = (ROOT / "docs" / "learning_rules.md").read_text()
    shown = text.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0]
    assert settled(getattr(matrix, name)()) == settled(shown)


def test_every_rule_is_in_it(matrix):
    from assay import learn

    classes = {name: getattr(learn, name) for name in learn.__all__ if isinstance(getattr(learn, name), type)}
    rules = {name for name, each in classes.items() if "__call__" in vars(each)}
    assert rules <= {name.split(",")[0] for name in matrix.RULES}
    assert len(rules) == 9


def test_a_table_is_written_between_its_marks(matrix):
    text = "a\n<!-- one -->\nold\n<!-- end one -->\nb"
    assert matrix.written(text, "one", "new") == "a\n<!-- one -->\n\nnew\n\n<!-- end one -->\nb"
