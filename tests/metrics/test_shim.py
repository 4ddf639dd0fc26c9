"""What a trial with the collector Push sees of the Katib SDK, with the real package behind it and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from katuna.launch.needs import METRICS, Needs
from katuna.manifest.experiment import Collector
from katuna.metric_line import Report
from katuna.metrics.collect import PUSH_FILE, Collecting
from katuna.metrics.shim import FILE_VARIABLE, FOLDER

COLLECTING = Collecting(("loss", "accuracy"), Collector("Push"))

REAL = {
    "kubeflow/__init__.py": "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n__version__ = '7'\n",
    "kubeflow/other.py": "HERE = True\n",
    "kubeflow/katib/__init__.py": """
import kubeflow.katib.api.search as search
from kubeflow.katib import models
from kubeflow.katib.api.report_metrics import report_metrics
from kubeflow.katib.api.client import KatibClient
print('loaded')
""",
    "kubeflow/katib/models.py": "",
    "kubeflow/katib/api/__init__.py": "",
    "kubeflow/katib/api/client.py": "class KatibClient: pass\n",
    "kubeflow/katib/api/report_metrics.py": "raise SystemExit('the real one')\n",
    "kubeflow/katib/api/search.py": "def double(): return 2.0\n",
}


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A folder with a package of the real one's shape."""
    for name, text in REAL.items():
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "site"


def environment(folder: Path, python_path: str) -> dict[str, str]:
    """The variables of a trial whose folder for metrics is `folder`."""
    variables = {name: str(folder / place) for name, place in COLLECTING.variables.items()}
    return {**variables, "PYTHONPATH": ":".join(filter(None, (COLLECTING.python_path, python_path)))}


def said_by(code: str, folder: Path, site: Path | None = None, **env: str) -> tuple[str, list[Report]]:
    """What a trial prints, and what it reports."""
    given = {"KATIB_TRIAL_NAME": "t0", **environment(folder, str(site or "")), **env}
    done = subprocess.run(
        # Without this environment's own packages: kubeflow may be among them.
        [sys.executable, "-S", "-W", "error", "-c", code],
        env={name: value for name, value in given.items() if value},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    source = COLLECTING.source(folder, folder / "log", 0)
    reports = source.read()
    while not source.at_end:
        reports += source.read()
    reports += source.finish()
    source.close()
    return done.stdout, reports


def test_values_are_reported_with_their_time(tmp_path: Path) -> None:
    code = """
from kubeflow.katib import report_metrics
report_metrics(metrics={"loss": 0.5, "accuracy": "0.25", "epoch": 1})
report_metrics({"loss": 3, "accuracy": float("nan")}, "katib-db-manager.kubeflow:6789", timeout=60)
"""
    before = time.time_ns() // 1000
    _, reports = said_by(code, tmp_path)
    after = time.time_ns() // 1000
    assert [(report.metric, report.value) for report in reports] == [
        ("loss", "0.5"),
        ("accuracy", "0.25"),
        ("loss", "3"),
        ("accuracy", "nan"),
    ]
    times = [report.time_us or 0 for report in reports]
    assert times == sorted(times)
    assert before <= times[0] < times[2] <= after


def test_what_float_takes_is_a_value(tmp_path: Path) -> None:
    """Such as a tensor, whose own text Katib would store and never understand."""
    code = """
from kubeflow.katib import report_metrics
class Tensor:
    def __float__(self): return 0.5
    def __str__(self): return 'tensor(0.5000)'
report_metrics({'loss': Tensor(), 'accuracy': True})
"""
    _, reports = said_by(code, tmp_path)
    assert [(report.metric, report.value) for report in reports] == [("loss", "0.5"), ("accuracy", "1.0")]


def test_what_the_sdk_refuses_is_refused(tmp_path: Path) -> None:
    code = """
import os
from kubeflow.katib import report_metrics
for value in ('high', None, [1]):
    try:
        report_metrics({'accuracy': 0.5, 'loss': value})
    except ValueError as error:
        print(error)
del os.environ['KATIB_TRIAL_NAME']
try:
    report_metrics({'loss': 1})
except ValueError as error:
    print(error)
"""
    said, reports = said_by(code, tmp_path)
    assert reports == [], "nothing of a call that fails"
    lines = said.splitlines()
    assert lines[0].startswith("the value 'high' of metric 'loss' is not a number")
    assert len(lines) == 4
    assert lines[3].startswith("KATIB_TRIAL_NAME is not set")


def test_a_file_that_cannot_be_written_is_a_runtime_error(tmp_path: Path) -> None:
    code = """
from kubeflow.katib import report_metrics
try:
    report_metrics({'loss': 1})
except RuntimeError as error:
    print('no:', error)
"""
    assert said_by(code, tmp_path / "missing")[0].startswith("no: ")
    assert said_by(code, tmp_path, KATUNA_PUSH_FILE="")[0].startswith("no: ")


def test_processes_and_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    code = """
import os, threading
from kubeflow.katib import report_metrics
def work(name):
    for step in range(50):
        report_metrics({name * 3000: 1, 'loss': step})
os.fork(), os.fork()
threads = [threading.Thread(target=work, args=(name,)) for name in 'ab']
for thread in threads: thread.start()
for thread in threads: thread.join()
try:
    while True: os.wait()
except ChildProcessError:
    pass
"""
    _, reports = said_by(code, tmp_path)
    # Two forks make four processes, with two threads each.
    assert sorted(int(report.value) for report in reports) == sorted(list(range(50)) * 8)
    assert all(json.loads(line) for line in (tmp_path / PUSH_FILE).read_text().splitlines())


def test_the_rest_of_a_real_package_is_there_when_asked_for(tmp_path: Path, real: Path) -> None:
    code = """
import kubeflow.katib
from kubeflow.katib import report_metrics
report_metrics({'loss': 1})
print('not yet')
from kubeflow.katib import KatibClient, search
print(KatibClient.__module__, kubeflow.katib.search.double(), kubeflow.katib.report_metrics is report_metrics)
from kubeflow.katib.api.report_metrics import report_metrics as same
import kubeflow.other, kubeflow
print(same is report_metrics, kubeflow.other.HERE, kubeflow.__version__, kubeflow.katib.models.__name__)
print(hasattr(kubeflow.katib, 'nothing'))
"""
    said, reports = said_by(code, tmp_path, real)
    assert said.splitlines() == [
        "not yet",
        "loaded",
        "kubeflow.katib.api.client 2.0 True",
        "True True 7 kubeflow.katib.models",
        "False",
    ]
    assert [report.value for report in reports] == ["1"]


def test_a_star_import_gives_all_of_it(tmp_path: Path, real: Path) -> None:
    said, _ = said_by("from kubeflow.katib import *\nprint(KatibClient.__name__)\nreport_metrics({'loss': 1})", tmp_path, real)
    assert said.splitlines() == ["loaded", "KatibClient"]


def test_without_a_real_package_the_rest_is_not_there(tmp_path: Path) -> None:
    code = """
try:
    from kubeflow.katib import KatibClient
except ImportError as error:
    print(error)
"""
    assert "cannot import name 'KatibClient' from 'kubeflow.katib'" in said_by(code, tmp_path)[0]


def test_a_real_package_that_cannot_be_loaded_says_why_each_time(tmp_path: Path, real: Path) -> None:
    (real / "kubeflow" / "katib" / "__init__.py").write_text("import no_such_module\n")
    code = """
for _ in range(2):
    try:
        from kubeflow.katib import KatibClient
    except ImportError as error:
        print(error)
"""
    assert said_by(code, tmp_path, real)[0].splitlines() == ["No module named 'no_such_module'"] * 2


def test_the_sdk_itself_behind_it(tmp_path: Path) -> None:
    pytest.importorskip("kubeflow.katib")
    code = "import kubeflow.katib as k; k.report_metrics({'loss': 1}); print(k.search.double(min=1, max=2).parameter_type, k.KatibClient.__name__)"
    environ = {"KATIB_TRIAL_NAME": "t0", "PATH": os.environ["PATH"], **environment(tmp_path, "")}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "double KatibClient\n"
    assert "loss" in (tmp_path / PUSH_FILE).read_text()


def test_the_jobs_own_python_path_stays(tmp_path: Path) -> None:
    needs = Needs(variables=COLLECTING.variables, python_path=COLLECTING.python_path)
    pushed = str(tmp_path / METRICS / PUSH_FILE)
    assert needs.environment(tmp_path, "/a:/b") == {FILE_VARIABLE: pushed, "PYTHONPATH": f"{FOLDER}:/a:/b"}
    assert Needs().environment(tmp_path, "/a:/b") == {}
    assert Collecting(("loss",)).python_path == ""


def test_it_needs_no_new_python() -> None:
    """Trials may run on an interpreter older than ours."""
    import ast

    for path in FOLDER.rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))
