"""The mutation driver: what it changes, which tests it runs, and that it tells a strong test from a weak one."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "mutate.py"
ENVIRONMENT = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

spec = importlib.util.spec_from_file_location("mutate", TOOL)
mutate = importlib.util.module_from_spec(spec)
sys.modules["mutate"] = mutate
spec.loader.exec_module(mutate)

METHOD = '''"""A method."""


def clipped(value, low=0.0, high=1.0):
    """Between low and high."""
    if low > high:
        raise ValueError(f"low must be at most {high + 0.0}")
    return min(max(value, low), high)
'''
STRONG = """
import pytest
from tiny.method import clipped

def test_values():
    assert [clipped(x) for x in (-1.0, 0.25, 3.0)] == [0.0, 0.25, 1.0]
    assert clipped(5.0, 2.0, 2.0) == 2.0

def test_refuses():
    with pytest.raises(ValueError):
        clipped(0.5, 1.0, 0.0)
"""
WEAK = """
from tiny.method import clipped

def test_runs():
    assert clipped(0.5) is not None
"""
LOOP = '''"""A loop."""


def halved(n):
    """Until it is one."""
    while n > 1:
        n //= 2
    return n
'''


@pytest.fixture
def tree(tmp_path):
    """make(tests) -> a source tree with one method and one test file."""

    def make(tests, method=METHOD):
        package = tmp_path / "src" / "tiny"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("")
        (package / "method.py").write_text(method)
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / "test_method.py").write_text(tests)
        (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-q'\n")
        return tmp_path

    return make


def hunt(root, *options):
    command = [sys.executable, str(TOOL), "--root", str(root), "--preload", "pytest", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=ENVIRONMENT)


def changes(text):
    return {(mutant.before, mutant.after) for mutant in mutate.mutants(Path("x.py"), text.encode())}


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("y = a + b", "a + b", "(a - b)"),
        ("y = 0 < a <= b", "0 < a <= b", "(0 < a < b)"),
        ("y = a and b", "a and b", "(a or b)"),
        ("y = -a", "-a", "(a)"),
        ("y = not a", "not a", "(a)"),
        ("y = True", "True", "False"),
        ("y = 3", "3", "4"),
        ("y = 1e-8", "1e-8", "2e-08"),
        ("y = 0.0", "0.0", "1.0"),
        ("if a: b()", "a", "False"),
        ("y += a", "y += a", "y -= a"),
        ("p.zero_()", "p.zero_()", "pass"),
        ("y = abs(a - b)", "abs(a - b)", "(a - b)"),
        ("y = min(a, b)", "min", "max"),
        ("y = p.mul_(2)", "p.mul_", "p.div_"),
        ("y = p.sum(0)", "p.sum", "p.mean"),
        ("def f(): return a", "a", "None"),
        ("y = 'größer', a - b", "a - b", "(a + b)"),
    ],
)
def test_a_change(text, before, after):
    assert (before, after) in changes(text)
    for mutant in mutate.mutants(Path("x.py"), text.encode()):
        changed = mutant.apply(text.encode())
        ast.parse(changed)
        assert changed != text.encode()


def test_words_are_left_alone():
    text = '''
"""1 + 1"""
@dataclass(frozen=True)
class A:
    x: Float[Tensor, "2 * n"]
def f(a: Literal[3]) -> Literal[4]:
    """a + b"""
    assert a > 2
    raise ValueError(f"{a + 1}", 5)
y = f"{a + 1}"
'''
    assert changes(text) == set()


def test_every_change_of_a_real_file_is_a_program():
    data = (ROOT / "src/assay/lab/criterion.py").read_bytes()
    found = mutate.mutants(Path("criterion.py"), data)
    assert len(found) > 100
    tree = ast.dump(ast.parse(data))
    for mutant in found[::7]:
        assert ast.dump(ast.parse(mutant.apply(data))) != tree, mutant


def test_which_files_and_which_tests():
    files = mutate.method_files(ROOT)
    names = {str(file) for file in files}
    assert {"src/assay/train.py", "src/assay/probes/cmd.py", "src/assay/lab/criterion.py"} <= names
    assert not {name for name in names if "/cli/" in name or "/report/" in name or "__init__" in name}
    assert {name for name in names if "/lab/" in name} == {f"src/assay/lab/{name}" for name in mutate.LAB}
    assert mutate.matching_tests(ROOT, Path("src/assay/lab/criterion.py")) == ROOT / "tests/lab/test_criterion.py"
    assert mutate.matching_tests(ROOT, Path("src/assay/nn/shapes.py")) == ROOT / "tests/nn"
    assert mutate.matching_tests(ROOT, Path("src/assay/nowhere.py")) is None


def test_a_strong_test_lets_nothing_through(tree):
    ran = hunt(tree(STRONG), "--at-most", "0.0")
    assert ran.returncode == 1 or "0 survived" in ran.stdout
    survivors = [line for line in ran.stdout.splitlines() if line.startswith("survived")]
    assert survivors == [], ran.stdout
    assert ran.returncode == 0


def test_a_weak_test_is_told_of(tree):
    root = tree(WEAK)
    ran = hunt(root)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert (
        "| src/tiny/method.py:8 | `return min(max(value, low), high)` | `return min(min(value, low), high)` |"
        in ran.stdout
    )
    assert (root / "src/tiny/method.py").read_text() == METHOD


def test_the_seed_decides(tree):
    root, files = tree(WEAK), [Path("src/tiny/method.py")]
    one, same, other = (mutate.drawn(root, files, seed, None) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert set(one) == set(other)
    assert mutate.drawn(root, files, 1, 3) == one[:3]


def test_a_loop_without_end_is_ended(tree):
    root = tree("from tiny.method import halved\n\ndef test_halved():\n    assert halved(9) == 1\n", LOOP)
    ran = hunt(root, "--at-most", "1.0")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 timed out" in ran.stdout


def test_the_budget_is_kept(tree):
    ran = hunt(tree(WEAK), "--budget", "0")
    assert ran.returncode == 0
    assert "0 mutants tried" in ran.stdout


def test_refusals(tree):
    root = tree("def test_broken():\n    assert False\n")
    ran = hunt(root)
    assert ran.returncode == 1
    assert "fails without any change" in ran.stderr
    (root / "tests/test_method.py").unlink()
    assert "has no tests" in hunt(root).stderr
    assert hunt(root, "--file", "src/tiny/other.py").returncode == 2
    assert hunt(root, "--budget", "soon").returncode == 2
