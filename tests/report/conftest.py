"""Papers, claims and trials to draw walls from, and one browser for all tests that need to look."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.lab.claim import ClaimOutline, Tune
from assay.lab.criterion import all_of, higher, lower
from assay.lab.record import Record, Registration, Verdict
from assay.lab.verdict import ArmOutcome, judge
from assay.report import write_wall

SOURCE = '''
@claim(
    "alpha",
    says="At equal epochs the method reaches higher test accuracy than Adam.",
    arms=("method", "adam"),
    holds=higher("test_accuracy", "method", than="adam"),
)
def more_accurate(arm, seed, *, train=8_000, lr=1e-3):
    """Both arms see the same batches."""
    split = data.load("fashion", train=train, seed=seed)  # <b>not markup</b>
    return {"test_accuracy": 0.9}
'''
HOSTILE = """<script>window.broken=1</script><img src=x onerror="window.broken=2">"'>]]>&amp;\x0bjavascript:alert(1)"""


@dataclass(frozen=True)
class SomePaper:
    key: str
    subject: str = "optim"
    title: str = "A method"
    year: int = 2020
    source: str = "arXiv:2006.00719"
    summary: str = "A summary of the method."
    parts: tuple[str, ...] = ("assay.report.drawing.rows",)
    claims: tuple[ClaimOutline, ...] = ()


def outline(paper: str, identifier: str = "more_accurate", **changes: Any) -> ClaimOutline:
    given: dict[str, Any] = {
        "says": "At equal epochs the method reaches higher test accuracy than Adam.",
        "arms": ("method", "adam"),
        "holds": higher("test_accuracy", "method", than="adam"),
        "sizes": {"laptop": {"train": 8000, "lr": 1e-3}, "smoke": {"train": 64, "lr": 1e-3}},
        "source": SOURCE,
    }
    return ClaimOutline(id=identifier, paper=paper, **{**given, **changes})


def trial(claim: ClaimOutline, arm: str, seed: int, measures: Mapping[str, Any], **changes: Any) -> Record:
    given: dict[str, Any] = {
        "status": "ok",
        "settings": claim.sizes["laptop"],
        "size": "laptop",
        "purpose": "seed",
        "error": "",
        "started": "2025-11-03T10:20:30+00:00",
        "provenance": "machine-a",
        "registration": Registration(claim.says, claim.arms, claim.holds.text),
    }
    given |= {"code": "code", "wall_seconds": 20.0 + seed, "cpu_seconds": 30.0, "peak_bytes": 512_000_000}
    name = f"{claim.paper}-{claim.id}-{arm}-{seed}"
    given |= {"digest": name, "paper": claim.paper, "claim": claim.id, "arms": (arm,), "seed": seed}
    return Record(results={arm: dict(measures)}, **{**given, **changes})


def judged(claim: ClaimOutline, records: Sequence[Record], seeds: Sequence[int], size: str = "laptop") -> Verdict:
    outcomes: dict[int, dict[str, ArmOutcome]] = {}
    for record in records:
        for arm in record.arms:
            outcomes.setdefault(record.seed, {})[arm] = ArmOutcome(record.status, record.results.get(arm, {}))
    return judge(claim.holds, outcomes, arms=claim.arms, seeds=tuple(seeds), size=size, on_divergence="worst")


@dataclass
class Shelf:
    """Papers with what is known of their claims."""

    papers: list[SomePaper] = field(default_factory=list)
    known: dict[str, tuple[Verdict, list[Record]]] = field(default_factory=dict)

    def results(self, paper: SomePaper, claim: ClaimOutline) -> tuple[Verdict, list[Record]]:
        return self.known.get(claim.key, (Verdict(None, "no trial has been run", "laptop", (), 0.95), []))

    def know(self, claim: ClaimOutline, records: list[Record], seeds: Sequence[int]) -> None:
        self.known[claim.key] = (judged(claim, records, seeds), records)

    def write(self, folder: Path, **changes: Any) -> Path:
        given: dict[str, Any] = {"generated": "2025-11-05T08:00:00+00:00", "provenance": lambda _: MACHINE}
        return write_wall(folder, self.papers, self.results, **{**given, **changes})


MACHINE = {"system": "Linux", "processor": "Some CPU", "threads": 1, "versions": {"torch": "2.13.0", "numpy": "2.4.6"}}


def effect_trials(
    claim: ClaimOutline, effect: float, seeds: int, rng: np.random.Generator, **changes: Any
) -> list[Record]:
    """Trials whose first arm is better by `effect`, in units of the noise between seeds."""
    records = []
    for seed in range(seeds):
        level = 0.88 + 0.01 * rng.standard_normal()
        for place, arm in enumerate(claim.arms):
            value = level + 0.004 * (effect * (place == 0) + rng.standard_normal())
            records.append(trial(claim, arm, seed, {"test_accuracy": float(value)}, **changes))
    return records


def rich_paper(shelf: Shelf, rng: np.random.Generator) -> SomePaper:
    """A paper whose claim returns numbers, curves and pictures, tuned, with one collapse and one error."""
    claim = outline(
        "alpha",
        "describes_the_run",
        says="Ten modes describe a whole noisy training run better than linear models that store as many numbers.",
        arms=("cmd", "pca", "dmd"),
        holds=all_of(
            higher("test_accuracy", "cmd", than="pca", by=-0.005),
            lower("relative_error", "cmd", than="pca"),
            lower("relative_error", "cmd", than="dmd"),
        ),
        sizes={
            "smoke": {"train": 64, "lr": 0.05, "epochs": 2, "validate": False},
            "laptop": {"train": 6000, "lr": 0.05, "epochs": 30, "validate": False},
            "paper": {"train": 50_000, "lr": 0.05, "epochs": 160, "validate": False},
        },
        tune=Tune({"lr": [0.01, 0.05, 0.1]}),
        reported={"table": "Table 2", "ResNet-18": {"SGD": 90.91, "Online CMD": 92.43}},
        left_out=("ResNet-18 on CIFAR-10", "150 epochs"),
        doc="All arms see the same snapshots.",
    )
    again = outline("alpha", "more_accurate")
    open_claim = outline("alpha", "costs_less", says="It costs less than a tenth of the training run.")
    records = []
    started = datetime.datetime(2025, 11, 3, 10, tzinfo=datetime.UTC)
    for seed in range(6):
        for place, arm in enumerate(claim.arms):
            steps = np.arange(1, 31)
            measures = {
                "test_accuracy": float(0.88 - 0.004 * place + 0.003 * rng.standard_normal()),
                "relative_error": float(0.12 + 0.08 * place + 0.01 * rng.standard_normal()),
                "loss": 2.2 * np.exp(-steps / (6 + 2 * place)) + 0.2 + 0.03 * rng.standard_normal(30),
                "error_by_rank": 10.0 ** (-steps[:12] / 3 + 0.4 * place) * (1 + 0.1 * rng.random(12)),
                "correlation": np.cos(np.arange(24)[:, None] * np.arange(24) / (9 + place)) * (seed + 1) / 6,
                "reconstruction": rng.random((3, 32, 32)) * 0.2 + np.linspace(0, 0.8, 32),
            }
            moment = (started + datetime.timedelta(minutes=seed)).isoformat()
            chosen = {**claim.sizes["laptop"], "lr": 0.1 if arm == "cmd" else 0.05}
            changes = {"started": moment, "settings": chosen}
            records.append(trial(claim, arm, seed, measures, **changes))
    shelf.know(claim, records, range(6))
    few = effect_trials(again, 0.2, 4, rng)
    few[-1] = trial(again, "adam", 3, {}, status="error", error="Traceback ...\nRuntimeError: out of patience")
    shelf.know(again, few, range(4))
    paper = SomePaper(
        "alpha",
        subject="probes",
        title="The Underlying Correlated Dynamics in Neural Training",
        year=2022,
        summary="Every weight's path is scale times one of a few reference weights' paths plus offset.",
        claims=(claim, again, open_claim),
    )
    shelf.papers.append(paper)
    return paper


@pytest.fixture(scope="session")
def make() -> dict[str, Callable[..., Any]]:
    """The builders of this file, for test modules, which cannot import it."""
    builders = (Shelf, SomePaper, outline, trial, judged, effect_trials, rich_paper)
    return {builder.__name__: builder for builder in builders} | {"hostile": lambda: HOSTILE}


@pytest.fixture(scope="session")
def shelf() -> Shelf:
    """A small wall: a rich paper, three plain ones with each outcome, one without claims, controls, a hostile one."""
    rng = np.random.default_rng(0)
    shelf = Shelf()
    rich_paper(shelf, rng)
    for key, subject, year, effect in (
        ("beta", "optim", 2020, 6),
        ("gamma", "optim", 2018, -6),
        ("delta", "nn", 2021, 0),
    ):
        claim = outline(key)
        shelf.know(claim, effect_trials(claim, effect, 5, rng, started=f"{year + 4}-05-01T00:00:00+00:00"), range(5))
        shelf.papers.append(SomePaper(key, subject, f"The {key} method, with café", year, claims=(claim,)))
    shelf.papers.append(
        SomePaper("epsilon", "nn", "Not tried yet", 2019, source="A journal, doi:10.1000/x.y-1", parts=())
    )
    twins = outline("control", "the_same_arm_twice", says="An arm beats itself.", control=True)
    shelf.know(twins, effect_trials(twins, 0, 5, rng), range(5))
    shelf.papers.append(SomePaper("control", "control", "Controls", 2025, "", "Untrue claims.", (), (twins,)))
    bad = outline("hostile", says=HOSTILE, arms=(HOSTILE, "adam"), holds=higher(HOSTILE, HOSTILE, than="adam"),
                  sizes={"laptop": {HOSTILE: HOSTILE}}, reported={HOSTILE: {HOSTILE: HOSTILE}}, left_out=(HOSTILE,),
                  source="x = 1  # </code></pre>" + HOSTILE, doc=HOSTILE)  # fmt: skip
    trials = [
        trial(
            bad, arm, seed, {HOSTILE: 1.0 + seed * place, "curve" + HOSTILE: np.arange(3.0), "pic" + HOSTILE: np.eye(3)}
        )
        for seed in range(5)
        for place, arm in enumerate(bad.arms)
    ]
    trials.append(trial(bad, "adam", 5, {}, status="error", error=HOSTILE))
    shelf.know(bad, trials, range(6))
    shelf.papers.append(SomePaper("hostile", HOSTILE, HOSTILE, 2023, HOSTILE, HOSTILE, (HOSTILE,), (bad,)))
    return shelf


@pytest.fixture(scope="session")
def wall(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shelf.write(tmp_path_factory.mktemp("wall"))


@pytest.fixture(scope="session")
def large_wall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """332 papers with five claims each; the trials of four of the five, which only their pages show, are left out."""
    rng = np.random.default_rng(1)
    shelf = Shelf()
    subjects = ("nn", "imaging", "fields", "probes", "theory", "systems", "compress", "pretrain", "generative", "optim")
    words = ("sparse", "adaptive", "residual", "implicit", "learned", "stochastic", "spectral", "neural", "recurrent")
    example = outline("example")
    tried = [effect_trials(example, rng.normal(3, 9), 3, rng) for _ in range(60)]
    pool = [(judged(example, records, range(3)), records) for records in tried]
    for number in range(332):
        key = f"paper-{number:03d}"
        title = " ".join(rng.choice(words, 7)).capitalize() + " networks for a problem of some length"
        says = f"On small real data the {rng.choice(words)} method of {key} is more accurate than its best opponent."
        claims = tuple(outline(key, f"claim_{index}", says=says, source="x = 1") for index in range(5))
        for claim in claims:
            verdict, records = pool[int(rng.integers(len(pool)))]
            shelf.known[claim.key] = (verdict, records if claim is claims[0] else [])
        subject = subjects[int(len(subjects) * rng.random() ** 1.5)]
        shelf.papers.append(SomePaper(key, subject, title, 2012 + number % 14, claims=claims))
    shelf.papers.sort(key=lambda paper: subjects.index(paper.subject))
    return shelf.write(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.fail("these tests look at the wall in a browser: apt-get install chromium")
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    flags = ["--no-sandbox", "--no-first-run", *(f"--disable-{each}" for each in quiet)]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=flags)
        yield running
        running.close()
