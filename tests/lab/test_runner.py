"""Running: what is asked for is run once, tuned fairly, looked at honestly, and judged."""

import dataclasses
import time

import numpy as np
import pytest

from assay.lab import ClaimError, Events, InlineExecutor, Ledger, Study, find, results, run
from assay.lab.runner import run_studies
from assay.lab.trial import Finished


class Log(Events):
    def __init__(self):
        self.trials, self.verdicts, self.starts, self.ends = [], [], [], 0

    def on_start(self, studies, trials, done):
        self.starts.append((len(studies), trials, done))

    def on_trial(self, trial, record):
        self.trials.append(trial)

    def on_verdict(self, study, verdict):
        self.verdicts.append((study.outline.id, verdict.outcome))

    def on_end(self, report):
        self.ends += 1


def write(folder, body, decorator="", name="mine.py"):
    (folder / name).write_text(
        '"""Mine."""\nfrom assay.lab import Tune, at_least, at_most, claim, higher, lower, Diverged\n\n'
        f'@claim("mine", says="Ours is better.", arms=("ours", "theirs"), {decorator})\n{body}'
    )
    return str(folder / name)


class Fake:
    """An executor that answers from a function and keeps count of what is in flight."""

    def __init__(self, answer, slots=2, seconds=1.0):
        self.answer, self.slots, self.seconds = answer, slots, seconds
        self.flying, self.most, self.together = [], 0, []

    def submit(self, trial):
        self.flying.append(trial)
        self.most = max(self.most, len(self.flying))
        self.together.append([each.label for each in self.flying])

    def next(self, timeout=None):
        if not self.flying:
            return None
        trial = self.flying.pop(0)
        return trial, Finished("ok", {arm: self.answer(arm, trial) for arm in trial.arms}, wall_seconds=self.seconds)

    def cancel(self):
        self.flying.clear()


HIGHER = 'holds=higher("score", "ours", than="theirs")'
PLAIN = "def plain(arm, seed, *, lr=0.1, n=1):\n    return {}\n"
TUNED = "def tuned(arm, seed, *, lr=0.1, validate=False):\n    return {}\n"


def test_events_seeds_and_slots(tmp_path):
    log, fake = Log(), Fake(lambda arm, trial: {"score": float(arm == "ours") + 0.01 * trial.seed})
    report = run(write(tmp_path, PLAIN, HIGHER), store=tmp_path / "l", executor=fake, events=[log], seeds=4)
    assert log.starts == [(1, 8, 0)]
    assert [(trial.seed, trial.arms[0]) for trial in log.trials] == [
        (s, a) for s in range(4) for a in ("ours", "theirs")
    ]
    assert log.verdicts == [("plain", "holds")]
    assert log.ends == 1
    assert fake.most == 2
    assert report.verdicts["mine/plain"].tags == ("thin",)
    again = run(write(tmp_path, PLAIN, HIGHER), store=tmp_path / "l", executor=fake, events=[log], seeds=6)
    assert (again.ran, again.reused) == (4, 8)
    assert again.verdicts["mine/plain"].seeds == (0, 1, 2, 3, 4, 5)


def test_fewer_seeds_than_the_ledger_has_do_not_hide_the_others(tmp_path):
    """Otherwise seeds could be picked."""
    file = write(tmp_path, PLAIN, HIGHER)
    fake = Fake(lambda arm, trial: {"score": float(arm == "ours") if trial.seed < 3 else 0.0})
    run(file, store=tmp_path / "l", executor=fake, seeds=6)
    report = run(file, store=tmp_path / "l", executor=fake, seeds=3)
    assert report.verdicts["mine/plain"].seeds == tuple(range(6))
    assert report.verdicts["mine/plain"].outcome == "undecided"


def test_an_interrupted_run_is_undecided_until_the_seeds_asked_for_are_there(tmp_path):
    file = write(tmp_path, PLAIN, HIGHER)

    class Stop(Events):
        def on_trial(self, trial, record):
            if trial.seed == 2:
                raise KeyboardInterrupt

    fake = Fake(lambda arm, trial: {"score": float(arm == "ours") + 0.1 * trial.seed}, slots=1)
    report = run(file, store=tmp_path / "l", executor=fake, events=[Stop()])
    assert report.stopped == "interrupted"
    assert not report.complete
    verdict = report.verdicts["mine/plain"]
    assert verdict.outcome == "undecided"
    assert "5 of 10 trials missing" in verdict.reason
    later = results(Study.of(*find(file)[0]), Ledger(tmp_path / "l"))  # and so it stays, whoever asks
    assert later.verdict.outcome == "undecided"


def test_every_arm_picks_its_own_best_once_and_never_on_the_claims_seeds(tmp_path):
    best = {"ours": 0.3, "theirs": 0.03}
    fake = Fake(lambda arm, trial: {"score": -abs(np.log(trial.settings["lr"] / best[arm])) + 0.001 * trial.seed})
    file = write(tmp_path, TUNED, f'{HIGHER}, tune={{"lr": [0.03, 0.1, 0.3, 1.0]}}')
    log = Log()
    run(file, store=tmp_path / "l", executor=fake, events=[log])
    tuning = [trial for trial in log.trials if trial.purpose == "tune"]
    assert len(tuning) == 2 * 4 * 2
    assert {trial.seed for trial in tuning} == {1000, 1001}
    assert all(trial.settings["validate"] is True for trial in tuning)
    rest = [trial for trial in log.trials if trial.purpose == "seed"]
    assert {(trial.arms[0], trial.settings["lr"]) for trial in rest} == {("ours", 0.3), ("theirs", 0.03)}
    assert all(trial.settings["validate"] is False for trial in rest)
    found = results(Study.of(*find(file)[0]), Ledger(tmp_path / "l"))
    assert found.chosen == {"ours": {"lr": 0.3}, "theirs": {"lr": 0.03}}
    assert found.verdict.seeds == (0, 1, 2, 3, 4)
    again = Log()
    run(file, store=tmp_path / "l", executor=fake, events=[again])
    assert again.trials == []


def test_tuning_takes_the_direction_of_the_criterion(tmp_path):
    fake = Fake(lambda arm, trial: {"loss": trial.settings["lr"]})
    decorator = 'holds=lower("loss", "ours", than="theirs"), tune={"lr": {"ours": [0.1, 0.2], "theirs": [0.3, 0.4]}}'
    file = write(tmp_path, TUNED, decorator)
    run(file, store=tmp_path / "l", executor=fake)
    assert results(Study.of(*find(file)[0]), Ledger(tmp_path / "l")).chosen == {
        "ours": {"lr": 0.1},
        "theirs": {"lr": 0.3},
    }


def test_a_setting_named_twice_in_a_grid_is_run_once(tmp_path):
    """An arm without anything to choose repeats its one value where another has several."""
    fake = Fake(lambda arm, trial: {"score": trial.settings["lr"]}, slots=4)
    file = write(tmp_path, TUNED, f'{HIGHER}, tune={{"lr": {{"ours": [0.1, 0.2], "theirs": [0.3, 0.3]}}}}')
    log = Log()
    report = run(file, store=tmp_path / "l", executor=fake, events=[log])
    assert report.complete
    assert len([trial for trial in log.trials if trial.purpose == "tune"]) == 2 * 2 + 2
    assert log.starts[0][1] == len(log.trials) == report.ran


def test_without_its_tuning_no_trial_is_run(tmp_path):
    class Broken(Fake):
        def next(self, timeout=None):
            ended = super().next()
            return ended and (ended[0], Finished("error", error="no luck"))

    log = Log()
    file = write(tmp_path, TUNED, f'{HIGHER}, tune={{"lr": [0.1, 0.2]}}')
    report = run(file, store=tmp_path / "l", executor=Broken(lambda arm, trial: {}), events=[log])
    assert {trial.purpose for trial in log.trials} == {"tune"}
    assert report.verdicts["mine/tuned"].outcome in (None, "undecided")
    assert not report.complete


@pytest.mark.parametrize(("effect", "seeds"), [(1.0, 5), (0.0, 20)])
def test_until_decided_looks_three_times(tmp_path, effect, seeds):
    noise = np.random.default_rng(0).normal(size=100)
    fake = Fake(lambda arm, trial: {"score": effect * (arm == "ours") + 0.1 * noise[trial.seed] * (arm == "ours")})
    file = write(tmp_path, PLAIN, HIGHER)
    report = run(file, store=tmp_path / "l", executor=fake, until_decided=True)
    verdict = report.verdicts["mine/plain"]
    assert len(verdict.seeds) == seeds
    assert verdict.level == pytest.approx(1 - 0.0201)
    later = results(Study.of(*find(file)[0]), Ledger(tmp_path / "l")).verdict
    assert later.level == verdict.level  # the looks are remembered


def test_until_decided_goes_as_far_again_after_the_code_changed(tmp_path):
    """Twenty seeds were asked for once: five new ones are not all, and no reason to stop."""
    noise = np.random.default_rng(1).normal(size=100)
    fake = Fake(lambda arm, trial: {"score": 0.7 * (arm == "ours") + noise[trial.seed] * (arm == "ours")})
    file = write(tmp_path, PLAIN, HIGHER)
    first = run(file, store=tmp_path / "l", executor=fake, until_decided=True).verdicts["mine/plain"]
    assert len(first.seeds) == 20
    write(tmp_path, PLAIN.replace("return {}", "return {} or {}"), HIGHER)
    again = run(file, store=tmp_path / "l", executor=fake, until_decided=True).verdicts["mine/plain"]
    assert (again.outcome, again.seeds) == (first.outcome, first.seeds)


def test_exclusive_trials_run_alone_and_last(tmp_path):
    file = write(
        tmp_path, "def timed(arms, seed, *, n=1):\n    return {}\n", f"{HIGHER}, together=True, exclusive=True"
    )
    other = write(tmp_path, PLAIN.replace("mine", "more"), HIGHER, "plain.py")
    fake = Fake(lambda arm, trial: {"score": float(arm == "ours")})
    run(file, other, store=tmp_path / "l", executor=fake, seeds=3)
    alone = [flying for flying in fake.together if any("timed" in label for label in flying)]
    assert len(alone) == 3
    assert all(len(flying) == 1 for flying in alone)
    assert ["timed" in flying[-1] for flying in fake.together] == [False] * 6 + [True] * 3


def test_a_budget_starts_nothing_that_would_not_end_in_time(tmp_path):
    fake = Fake(lambda arm, trial: {"score": 0.0}, slots=1, seconds=1000.0)
    report = run(write(tmp_path, PLAIN, HIGHER), store=tmp_path / "l", executor=fake, budget=60.0)
    assert report.ran == 1  # the first takes 1,000 s, so no second is begun
    assert report.stopped == "the budget is used up"


def test_a_diverged_arm_gets_the_worst_value_and_is_counted(tmp_path):
    body = (
        "def runs(arm, seed, *, n=1):\n"
        "    if arm == 'theirs' and seed == 0:\n        raise Diverged('loss is nan')\n"
        "    if arm == 'theirs' and seed == 1:\n        return {'score': float('nan')}\n"
        "    return {'score': 1.0 + seed / 10 if arm == 'ours' else 0.5}\n"
    )
    report = run(write(tmp_path, body, HIGHER), store=tmp_path / "l", executor=InlineExecutor())
    verdict = report.verdicts["mine/runs"]
    assert verdict.collapses == {"theirs": 2}
    assert verdict.parts[0].margins[0] == pytest.approx(0.5)
    assert verdict.outcome == "holds"
    assert report.complete  # a collapse is a result


def test_changing_the_promise_after_results_marks_the_verdict(tmp_path):
    fake = Fake(lambda arm, trial: {"score": float(arm == "ours")})
    file = write(tmp_path, PLAIN, HIGHER)
    assert run(file, store=tmp_path / "l", executor=fake).verdicts["mine/plain"].amended == ""
    write(tmp_path, PLAIN, 'holds=higher("score", "ours", than="theirs", by=-0.5)')
    report = run(file, store=tmp_path / "l", executor=fake)
    assert report.ran == 0
    verdict = report.verdicts["mine/plain"]
    assert "amended" in verdict.tags
    assert "score: ours > theirs - 0.5" in verdict.amended


def test_results_of_changed_code_are_shown_as_stale_until_they_are_run_again(tmp_path):
    fake = Fake(lambda arm, trial: {"score": float(arm == "ours")})
    file = write(tmp_path, PLAIN, HIGHER)
    run(file, store=tmp_path / "l", executor=fake)
    write(tmp_path, PLAIN.replace("{}", "{'x': 1}"), HIGHER)
    found = results(Study.of(*find(file)[0]), Ledger(tmp_path / "l")).verdict
    assert found.outcome == "holds"
    assert found.tags == ("stale",)
    assert found.stale == "mine.py changed"
    report = run(file, store=tmp_path / "l", executor=fake)
    assert report.ran == 10
    assert report.verdicts["mine/plain"].stale == ""


def test_smoke_never_gives_a_verdict(tmp_path):
    fake = Fake(lambda arm, trial: {"score": float(arm == "ours")})
    report = run(
        write(tmp_path, PLAIN, f"{HIGHER}, smoke=dict(n=0)"), store=tmp_path / "l", executor=fake, size="smoke"
    )
    assert report.verdicts["mine/plain"].outcome is None
    assert report.ran == 10


def test_wrong_requests_run_nothing(tmp_path):
    fake = Fake(lambda arm, trial: {})
    file = write(tmp_path, PLAIN, HIGHER)
    for settings in (dict(settings={"nn": 1}), dict(size="paper"), dict(settings={"n": "x"})):
        with pytest.raises(ClaimError):
            run(file, store=tmp_path / "l", executor=fake, **settings)
    with pytest.raises(ValueError, match="seeds=0"):
        run(file, store=tmp_path / "l", executor=fake, seeds=0)
    assert not (tmp_path / "l").exists()


def test_a_claim_named_twice_runs_once(tmp_path):
    fake = Fake(lambda arm, trial: {"score": float(arm == "ours")})
    file = write(tmp_path, PLAIN, HIGHER)
    assert run(file, f"{file}/plain", store=tmp_path / "l", executor=fake).ran == 10


def test_another_driver_s_results_are_not_run_again(tmp_path):
    """The second driver has planned its trials before the first finishes them."""
    file = write(tmp_path, PLAIN, HIGHER)
    study = Study.of(*find(file)[0])
    ledger = Ledger(tmp_path / "l")
    answer = lambda arm, trial: {"score": float(arm == "ours")}  # noqa: E731

    class Other(Events):
        def on_trial(self, trial, record):
            if trial.seed == 0 and trial.arms == ("theirs",):
                run_studies([study], ledger=ledger, executor=Fake(answer))

    report = run_studies([study], ledger=ledger, executor=Fake(answer, slots=1), events=[Other()])
    assert report.ran == 2


def test_records_say_where_and_when_they_were_made(tmp_path):
    before = time.time()
    file = write(tmp_path, "def runs(arm, seed, *, n=1):\n    return {'score': 1.0}\n", HIGHER)
    run(file, store=tmp_path / "l", executor=InlineExecutor(), seeds=1)
    ledger = Ledger(tmp_path / "l")
    record = next(ledger.records())
    facts = ledger.provenance(record.provenance)
    assert facts["threads"] == 1
    assert facts["cores"] >= 1
    assert facts["versions"]["torch"].startswith("2.")
    assert record.started >= time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before))
    assert record.peak_bytes > 2**20
    assert list(ledger.code(record.code).files) == ["mine.py"]
    assert dataclasses.asdict(record.registration) == {
        "says": "Ours is better.",
        "arms": ("ours", "theirs"),
        "holds": "score: ours > theirs",
    }
