"""``--json``: every verb that prints results prints one document, with the keys that docs/json.md says."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import typer
from conversion_cases import write_in_process, write_labels
from evaluation_cases import made_up
from stored_runs import stored_run
from typer.testing import CliRunner

from gennape.errors import ConfigError
from gennape.jobs.cli import app
from gennape.jobs.shared.json_output import Result, one_document, plain
from gennape.platform.cluster.jobs import Job
from gennape.platform.labelling.study import StudyResult
from gennape.platform.training.tuning import Found
from gennape.predictors.encoder.encoder import EncoderConfig
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
#: Verbs that run until they are stopped, or print what others printed.
WITHOUT = {"ui", "serve", "logs"}
VERBS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SPACE = family("hiaml")
TEXT = json.dumps(SPACE.encode(SPACE.sample(np.random.default_rng(0), 1)[0]))
JOB = Job("job-1", "search", "succeeded", 1.0, 2.0, 0, "", None)


def documented() -> dict[str, set[str]]:
    """The keys of each command, those of its parts left out."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", (ROOT / "docs" / "json.md").read_text(), re.MULTILINE)
    found = {}
    for command, keys in rows:
        outer = keys
        while "(" in outer:
            outer = re.sub(r"\([^()]*\)", "", outer)
        found[command] = set(re.findall(r"`(\w+)`", outer))
    return found


@dataclass
class Stage:
    """Where a verb is run, and how what takes long is replaced."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def put(self, name: str, value: object) -> None:
        self.monkeypatch.setattr(name, value)


def _run_of(stage: Stage) -> list[object]:
    stored_run(stage.folder / "w", "one")
    return ["--workspace", stage.folder / "w"]


def _search(stage: Stage) -> list[object]:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    import search_without_services as services

    services.replace(stage.monkeypatch.setattr, "inline", 0, services._Tracker())
    of = ["--space", "hiaml", "--evaluations", "60", "--population", "20"]
    return ["search", *of, "--workspace", stage.folder / "w"]


def _finished(stage: Stage) -> list[object]:
    return ["search", "--resume", "one", *_run_of(stage)]


def _compare(stage: Stage) -> list[object]:
    stored_run(stage.folder / "w", "two", seed=1)
    return ["compare", "one", "two", "--to", stage.folder / "plots", *_run_of(stage)]


def _evaluate(stage: Stage) -> list[object]:
    inputs = SimpleNamespace(predictor=SimpleNamespace(sha256="ab"), chosen=(), timed=())
    stage.put("gennape.jobs.shared.evaluating.read_inputs", lambda *_: inputs)
    stage.put("gennape.jobs.shared.evaluating.measure_all", lambda *_: made_up())
    stage.put("gennape.platform.evaluation.tracking.evaluation_run", lambda *_: _Nothing())
    (stage.folder / "data").mkdir()
    of = ["--data", stage.folder / "data", "--out", stage.folder / "report", "--no-members"]
    return ["evaluate", *of, "--workspace", stage.folder / "w"]


class _Nothing:
    """Stands for a run in MLflow."""

    def __enter__(self) -> Callable[..., None]:
        return lambda *_: None

    def __exit__(self, *_: object) -> None:
        pass


def _verify(stage: Stage) -> list[object]:
    front = {"noise": float("nan"), "kendall_tau": 1.0, "regret": 0.0, "pairs_apart": 0}
    rows = pd.DataFrame(
        {"role": ["front"], "network": ["ab"], "predicted": [1.0], "accuracy": [float("nan")], "trainings": [1],
         "flops": [np.int64(2)]}
    )  # fmt: skip
    of = "gennape.platform.labelling"
    stage.put(f"{of}.verification.candidates", lambda *_: SimpleNamespace(space=SPACE, genomes=SPACE.sample(
        np.random.default_rng(0), 2)))  # fmt: skip
    stage.put("gennape.jobs.verify.train_networks", lambda *_, **__: None)
    stage.put("pandas.read_parquet", lambda *_: None)
    stage.put(f"{of}.verification.verify_front", lambda *_: (rows, {"front": front, "baselines": []}))
    stage.put(f"{of}.verification.write_verification", lambda out, *_: out)
    stage.put(f"{of}.verification.metrics_of", lambda _: {})
    stage.put("gennape.platform.evaluation.tracking.finished_run", lambda *_: None)
    of_images = ["--images", stage.folder, "--device", "cpu", "--out", stage.folder / "out"]
    return ["verify", "--run", "one", *of_images, *_run_of(stage)]


def _label(stage: Stage) -> list[object]:
    stage.put("gennape.jobs.label.train_networks", lambda *_, **__: StudyResult(2, 1, 0, ("a note",)))
    of = ["--images", stage.folder, "--out", stage.folder / "l.csv", "--space", "hiaml", "--sample", "3"]
    return ["label", *of, "--device", "cpu", "--workspace", stage.folder / "w"]


def _tune(stage: Stage) -> list[object]:
    settings = SimpleNamespace(options=lambda: {"fit": {"clusters": 3}})
    stage.put("gennape.jobs.tune._rows", lambda *_: SimpleNamespace(validation=((), np.zeros(3))))
    stage.put("gennape.jobs.tune._require_lessons", lambda _: None)
    found = Found(1, settings, {"srcc": 0.5}, 0, 3, ["trial 2: no"])
    stage.put("gennape.platform.training.tuning.tune_settings", lambda *_: found)
    write_labels(stage.folder / "l.csv", 5)
    of = ["--data", stage.folder / "l.csv", "--out", stage.folder / "t.json", "--space", "hiaml"]
    return ["tune", *of, "--workspace", stage.folder / "w"]


def _pretrain(stage: Stage) -> list[object]:
    stage.put("gennape.jobs.pretrain._here", lambda *_: ("ab" * 32, 20))
    return ["pretrain", "--out", stage.folder / "encoder"]


def _settings_file(stage: Stage) -> list[object]:
    (stage.folder / "settings.json").write_text('{"pretrain": {"seed": 4}}')
    return [*_pretrain(stage), "--settings", stage.folder / "settings.json"]


def _fit(stage: Stage) -> list[object]:
    stage.put(
        "gennape.predictors.model.checkpoint.load_encoder", lambda _: (SimpleNamespace(config=EncoderConfig()), "ab")
    )
    stage.put("gennape.predictors.model.fitting.fit", lambda *_, **__: None)
    stage.put("gennape.predictors.model.checkpoint.save_ensemble", lambda *_: "cd" * 32)
    stage.put("gennape.predictors.model.checkpoint.load_checkpoint", lambda _: None)
    stage.put("gennape.predictors.model.checkpoint.check_place", lambda *_: None)
    stage.put("gennape.jobs.fit._figures", lambda *_: {"rows": 3, "srcc": np.float64("nan")})
    write_labels(stage.folder / "l.csv", 60)
    of = ["--data", stage.folder / "l.csv", "--out", stage.folder / "c", "--space", "hiaml", "--batch", "8"]
    return ["fit", *of, "--encoder", stage.folder / "e"]


def _finetune(stage: Stage) -> list[object]:
    write_labels(stage.folder / "l.csv", 12)
    return ["finetune", "--space", "hiaml", "--labels", stage.folder / "l.csv", "--out", stage.folder / "tuned"]


def _fetch(stage: Stage) -> list[object]:
    def fetch(_url: str, path: Path, *_: object) -> bool:
        path.write_bytes(b"x")
        return True

    stage.put("gennape.search_spaces.labels.download.fetch", fetch)
    return ["data", "fetch", "https://example.org/a.csv", "--to", stage.folder / "a.csv"]


def _check(stage: Stage) -> list[object]:
    write_labels(stage.folder / "l.csv", 12)
    return ["data", "check", stage.folder / "l.csv", "--space", "hiaml"]


def _convert(stage: Stage) -> list[object]:
    write_in_process(stage.monkeypatch)
    return ["convert", "--space", "hiaml", "--sample", "5", "--to", stage.folder / "graphs"]


def _conform(stage: Stage) -> list[object]:
    fixtures = ROOT.parent / "shared" / "fixtures" / "hiaml.jsonl"
    if not fixtures.exists():
        pytest.skip(f"needs measured networks, which are not part of this repository: {fixtures}")
    (stage.folder / "f").mkdir()
    (stage.folder / "f" / "hiaml.jsonl").write_text(fixtures.read_text().partition("\n")[0] + "\n")
    return ["conform", stage.folder / "f"]


def _submit(stage: Stage) -> list[object]:
    stage.put("gennape.platform.cluster.submission.submit", lambda _: "job-1")
    (stage.folder / "g.whl").write_bytes(b"")
    return ["submit", "--wheel", stage.folder / "g.whl", "--", "data", "list"]


def _status(stage: Stage) -> list[object]:
    stage.put("gennape.platform.cluster.jobs.all_jobs", lambda _: [JOB])
    return ["status"]


def _stop(stage: Stage) -> list[object]:
    stage.put("gennape.platform.cluster.jobs.stop_job", lambda *_: JOB)
    stage.put("gennape.platform.cluster.jobs.read_log", lambda *_: ("", JOB))
    return ["stop", "job-1"]


#: By the name of the row in docs/json.md; a second way to run a verb has a name behind a comma.
CASES: dict[str, Callable[[Stage], list[object]]] = {
    "search": _search,
    "search, finished": _finished,
    "best": lambda stage: ["best", "--run", "one", *_run_of(stage)],
    "compare": _compare,
    "export": lambda stage: ["export", "--run", "one", "--index", "0", "--to", stage.folder / "n.py", *_run_of(stage)],
    "show": lambda stage: ["show", "--run", "one", "--index", "0", "--to", stage.folder / "n.svg", *_run_of(stage)],
    "show --sample": lambda _: ["show", "--space", "hiaml", "--sample", "5"],
    "verify": _verify,
    "predict": lambda _: ["predict", "--space", "hiaml", TEXT],
    "evaluate": _evaluate,
    "pretrain": _pretrain,
    "pretrain, settings": _settings_file,
    "fit": _fit,
    "finetune": _finetune,
    "tune": _tune,
    "data": lambda _: ["data"],
    "data fetch": _fetch,
    "data check": _check,
    "label": _label,
    "convert": _convert,
    "conform": _conform,
    "submit": _submit,
    "status": _status,
    "stop": _stop,
}


@pytest.mark.parametrize("case", CASES)
def test_stdout_is_one_document_with_the_documented_keys(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = CASES[case](Stage(tmp_path, monkeypatch))
    verb, *rest = map(str, words)
    # Before the first argument: what follows `--` is another verb's.
    done = CliRunner().invoke(app, [verb, "--json", *rest], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("\n") == 1
    document = json.loads(done.stdout, parse_constant=pytest.fail)
    assert set(document) == documented()[case.partition(",")[0]]


def test_every_verb_that_prints_results_takes_it_and_is_documented() -> None:
    taking = {name for name, verb in VERBS.items() if any("--json" in option.opts for option in verb.params)}
    assert taking == set(VERBS) - WITHOUT
    assert {case.split()[0] for case in documented()} == taking
    assert {case.partition(",")[0] for case in CASES} == set(documented())


def test_a_verb_that_fails_prints_no_document() -> None:
    done = CliRunner().invoke(app, ["show", "--space", "hiaml", "--architecture", "{", "--json"])
    assert isinstance(done.exception, ConfigError)
    assert done.stdout == ""


def test_a_bad_row_is_in_the_document_and_in_the_status(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    write_labels(path, 5)
    path.write_text(path.read_text() + "nonsense,80,1,a\n")
    done = CliRunner().invoke(app, ["data", "check", str(path), "--space", "hiaml", "--json"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["rows"] == 5
    assert len(document["rejected"]) == 1


def test_what_people_read_goes_to_stderr() -> None:
    own = typer.Typer()

    @own.command()
    @one_document
    def verb(number: int) -> Result:
        typer.echo(f"for people {number}")
        return Result({"number": number}, status=3)

    spoken = CliRunner().invoke(own, ["7"])
    assert (spoken.stdout, spoken.stderr, spoken.exit_code) == ("for people 7\n", "", 3)
    silent = CliRunner().invoke(own, ["7", "--json"])
    assert (json.loads(silent.stdout), silent.stderr, silent.exit_code) == ({"number": 7}, "for people 7\n", 3)


def test_what_json_has_no_word_for() -> None:
    values = {"a": np.array([1.0, np.nan]), "b": Path("x/y"), "c": np.int64(3), "d": (float("inf"), None, True), 5: {2}}
    expected = {"a": [1.0, None], "b": "x/y", "c": 3, "d": [None, None, True], "5": [2]}
    assert plain(values) == expected
    assert json.loads(json.dumps(plain(values), allow_nan=False)) == expected
