"""`katuna lint` as a user and as a machine call it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from katuna.cli.findings import github, lines, sarif, summary
from katuna.errors import CLUSTERS, EVERYWHERE, KATIB, KATUNA, LOCAL, Finding
from searches import KATUNA as COMMAND
from searches import katuna

GOOD = """\
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: good}
spec:
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: Never
      template: {spec: {containers: [{name: pytorch, image: i, command: [python, train.py]}]}}
"""
REFUSED = GOOD.replace("replicas: 1", "replicas: 2")
MISSPELT = GOOD.replace("command:", "comand:")
SUSPENDED = GOOD.replace("spec:\n  pytorch", "spec:\n  runPolicy: {suspend: true}\n  pytorch")


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_a_good_file_has_nothing_to_remark(tmp_path: Path) -> None:
    done = katuna("lint", "good.yaml", cwd=write(tmp_path, good=GOOD))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "1 file: nothing to remark\n")


def test_a_finding_is_one_line_with_place_level_code_path_and_repair(tmp_path: Path) -> None:
    done = katuna("lint", "good.yaml", "misspelt.yaml", cwd=write(tmp_path, good=GOOD, misspelt=MISSPELT))
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    path = "spec.pytorchReplicaSpecs[Master].template.spec.containers[0].comand"
    column = 1 + MISSPELT.splitlines()[8].index("comand")
    assert line == (
        f"misspelt.yaml:9:{column}: error[unknown-field] on local, warning on katib, cluster: {path}: "
        "there is no such field (did you mean command?)"
    )
    assert done.stderr == "2 files: 1 error, 1 warning\n"


@pytest.mark.parametrize(
    ("text", "engine", "code"),
    [
        (REFUSED, "all", 1),
        (REFUSED, "cluster", 1),
        (MISSPELT, "local", 1),
        (MISSPELT, "katib", 0),
        (MISSPELT, "cluster", 0),
        (SUSPENDED, "all", 0),
    ],
)
def test_an_error_counts_on_the_engine_asked_for(tmp_path: Path, text: str, engine: str, code: int) -> None:
    done = katuna("lint", "--on", engine, "f.yaml", cwd=write(tmp_path, f=text))
    assert done.returncode == code
    shown = json.loads(katuna("lint", "--on", engine, "-o", "json", "f.yaml", cwd=tmp_path).stdout)
    assert shown
    assert all(engine in (*finding["on"], "all") for finding in shown)


def test_standard_input_and_folders(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "lint", "-"], input=REFUSED, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("<stdin>:7:17: error[master-replicas]: spec.pytorchReplicaSpecs[Master].replicas: ")
    (tmp_path / "jobs" / "deep").mkdir(parents=True)
    write(tmp_path / "jobs", b=REFUSED, a=REFUSED)
    write(tmp_path / "jobs" / "deep", c=GOOD.replace("good", "x_y"))
    (tmp_path / "jobs" / "notes.txt").write_text("no manifest")
    done = katuna("lint", "-o", "name", "jobs", "jobs/b.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()) == (1, ["jobs/a.yaml", "jobs/b.yaml", "jobs/deep/c.yaml"])


@pytest.mark.parametrize("name", ["nowhere.yaml", "empty", "binary.yaml", "missing/x.yml"])
def test_what_cannot_be_read_is_unusable(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    done = katuna("lint", name, cwd=tmp_path)
    assert (done.returncode, done.stdout.startswith(f"{name}: error[not-readable]: ")) == (2, True)


def test_what_cannot_be_read_leaves_the_others_their_findings(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    done = katuna("lint", "-o", "json", "binary.yaml", "f.yaml", cwd=write(tmp_path, f=REFUSED))
    assert done.returncode == 2
    assert [(each["file"], each["code"]) for each in json.loads(done.stdout)] == [
        ("binary.yaml", "not-readable"),
        ("f.yaml", "master-replicas"),
    ]


def test_a_looping_link_and_a_missing_file_are_findings(tmp_path: Path) -> None:
    (write(tmp_path, refused=REFUSED) / "loop.yaml").symlink_to("loop.yaml")
    for output in ("json", "sarif", "github"):
        done = katuna("lint", "-o", output, "refused.yaml", "loop.yaml", "nowhere.yaml", cwd=tmp_path)
        assert done.returncode == 2
        assert "master-replicas" in done.stdout, output
        assert done.stdout.count("loop.yaml") == done.stdout.count("nowhere.yaml") == 1, output


def test_a_file_given_by_two_spellings_is_read_once(tmp_path: Path) -> None:
    (write(tmp_path, f=REFUSED) / "again.yaml").symlink_to("f.yaml")
    done = katuna("lint", "f.yaml", "./f.yaml", str(tmp_path / "f.yaml"), "again.yaml", cwd=tmp_path)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "1 file: 1 error\n")


def test_standard_input_is_no_path() -> None:
    def piped(output: str) -> str:
        command = [*COMMAND, "lint", "-o", output, "-"]
        return subprocess.run(command, input=REFUSED, capture_output=True, text=True, check=False).stdout

    (result,) = json.loads(piped("sarif"))["runs"][0]["results"]
    assert result["locations"] == [{"logicalLocations": [{"fullyQualifiedName": "spec.pytorchReplicaSpecs[Master].replicas"}]}]
    assert result["message"]["text"].startswith("line 7, column 17: ")
    assert piped("github").startswith("::error title=master-replicas::line 7, column 17: spec.pytorchReplicaSpecs")


NAMES_DATA = GOOD.replace("train.py]", "train.py, --data=./data/train.csv]")


def test_a_path_that_is_in_no_image_is_a_warning_for_a_cluster(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").touch()
    (tmp_path / "train.py").write_text("import numpy\nnumpy.load('weights.npz')\n")
    (tmp_path / "weights.npz").touch()
    done = katuna("lint", "f.yaml", cwd=write(tmp_path, f=NAMES_DATA))
    assert (done.returncode, done.stderr) == (0, "1 file: 2 warnings\n")
    hint = "mount a volume that holds it, build it into the image, or let the trainer read KATUNA_DATA, which --data sets here"
    path = "spec.pytorchReplicaSpecs[Master].template.spec.containers[0].command"
    script, word = (1 + NAMES_DATA.splitlines()[8].index(each) for each in ("train.py", "--data"))
    ends = f"a file of this machine: an image has only what it was built with ({hint})"
    assert done.stdout.splitlines() == [
        f"f.yaml:9:{script}: warning[not-in-image] on katib, cluster: {path}[1]: 'train.py:2' names 'weights.npz', {ends}",
        f"f.yaml:9:{word}: warning[not-in-image] on katib, cluster: {path}[2]: './data/train.csv' is {ends}",
    ]
    for engine, number in (("cluster", 2), ("local", 0)):
        assert len(json.loads(katuna("lint", "--on", engine, "-o", "json", "f.yaml", cwd=tmp_path).stdout)) == number


def test_what_is_here_is_looked_for_where_lint_runs(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    write(tmp_path / "elsewhere", f=NAMES_DATA)
    (tmp_path / "elsewhere" / "data" / "train.csv").touch()
    assert katuna("lint", "elsewhere/f.yaml", cwd=tmp_path).stdout == ""
    command = [*COMMAND, "lint", "-"]
    piped = subprocess.run(command, input=NAMES_DATA, capture_output=True, text=True, check=True, cwd=tmp_path / "elsewhere")
    assert piped.stdout.startswith("<stdin>:9:")
    assert "[not-in-image]" in piped.stdout
    gone = tmp_path / "gone"
    script = 'mkdir "$1"; cd "$1"; rmdir "$1"; shift; exec "$@"'
    left = subprocess.run(
        ["/bin/sh", "-c", script, "sh", gone, *command], input=NAMES_DATA, capture_output=True, text=True, check=True
    )
    assert (left.stdout, left.stderr) == ("", "1 file: nothing to remark\n")


def test_json_has_every_field(tmp_path: Path) -> None:
    (only,) = json.loads(katuna("lint", "-o", "json", "f.yaml", cwd=write(tmp_path, f=REFUSED)).stdout)
    hint = only.pop("hint")
    message = only.pop("message")
    assert (hint, bool(message)) == ("", True)
    assert only == {
        "code": "master-replicas",
        "level": "error",
        "file": "f.yaml",
        "line": 7,
        "column": 17,
        "path": "spec.pytorchReplicaSpecs[Master].replicas",
        "value": "2",
        "on": ["katib", "cluster", "local"],
    }


HOSTILE = Finding(
    "a,b:c%d/\x1b[31m\n::error::x.yaml",
    3,
    9,
    "spec.x,y:z",
    "100% of\r\n::error::it, \x1b]0;t\x07 \u202e",
    hint="50%",
    code="wrong-type",
)


def decoded(text: str, property_: bool) -> str:
    """What GitHub's runner makes of an escaped property or of the data."""
    for escaped, char in [*((("%3A", ":"), ("%2C", ",")) if property_ else ()), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")]:
        text = text.replace(escaped, char)
    return text


def test_github_commands_are_escaped() -> None:
    (line,) = github([HOSTILE])
    assert line.isprintable()
    command, properties, data = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()  # type: ignore[union-attr]
    assert command == "error"
    named = dict(each.split("=", 1) for each in properties.split(","))
    assert set(named) == {"file", "line", "col", "title"}
    assert decoded(named["file"], True) == "a,b:c%d/\\x1b[31m\n::error::x.yaml"
    assert (named["line"], named["col"], named["title"]) == ("3", "9", "wrong-type")
    shown = decoded(data, False)
    assert shown.startswith("spec.x,y:z: 100% of")
    assert "(50%)" in shown


def test_every_format_is_free_of_control_characters(tmp_path: Path) -> None:
    text = (
        GOOD.replace("good", '"a\\u001b[31m\\u202e\\nb"')
        .replace("[python", '["\\0", python')
        .replace("restartPolicy", '"re\\u0007"')
    )
    write(tmp_path, f=text)
    for output in ("table", "json", "yaml", "sarif", "github", "name"):
        done = katuna("lint", "-o", output, "f.yaml", cwd=tmp_path)
        assert done.returncode == 1
        assert (done.stdout + done.stderr).replace("\n", "").isprintable(), output


def test_a_hostile_file_name_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    name = "a\x9b\u202e\x1b[31m\n::error::,%.yaml"
    (tmp_path / name).write_text(REFUSED)
    (tmp_path / os.fsdecode(b"\xff.yaml")).write_text(REFUSED)
    for output in ("table", "json", "yaml", "sarif", "github", "name"):
        done = katuna("lint", "-o", output, ".", cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        assert (done.stdout + done.stderr).replace("\n", "").isprintable(), output
    files = [finding["file"] for finding in json.loads(katuna("lint", "-o", "json", ".", cwd=tmp_path).stdout)]
    assert files[0] == name


def test_a_note_is_a_notice_and_engines_are_named() -> None:
    (line,) = github([Finding("f.yaml", 0, 0, "", "m", "note", on=LOCAL, code="c")])
    assert line == "::notice file=f.yaml,title=c::m [local]"


def test_sarif_has_what_the_schema_demands(tmp_path: Path) -> None:
    write(tmp_path, refused=REFUSED, misspelt=MISSPELT)
    names = ["refused.yaml", str(tmp_path / "misspelt.yaml")]
    log = json.loads(katuna("lint", "-o", "sarif", *names, cwd=tmp_path).stdout)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert run["tool"]["driver"]["name"] == "katuna"
    assert len(set(rules)) == len(rules)
    assert {result["ruleId"] for result in run["results"]} == set(rules) == {"master-replicas", "unknown-field"}
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] in ("refused.yaml", "misspelt.yaml")
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert location["physicalLocation"]["region"]["startColumn"] >= 1


def test_sarif_of_a_hostile_name_and_of_a_whole_file() -> None:
    whole = Finding("/elsewhere/a b.yaml", 0, 0, "", "the file is empty", code="empty-file")
    results: list[dict[str, Any]] = sarif([HOSTILE, whole], "1")["runs"][0]["results"]
    uris = [result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in results]
    assert unquote(uris[0]) == HOSTILE.file
    assert re.fullmatch(r"[A-Za-z0-9%/._~-]+", uris[0])
    assert uris[1] == "file:///elsewhere/a%20b.yaml"
    assert "region" not in results[1]["locations"][0]["physicalLocation"]


def test_findings_that_differ_in_level_alone_are_one_line() -> None:
    error = Finding("f", 1, 2, "p", "m", "error", on=KATUNA, code="c")
    warning = Finding("f", 1, 2, "p", "m; and", "warning", on=KATIB, code="c")
    assert lines([error, warning]) == ["f:1:2: error[c] on cluster, local, warning on katib: p: m"]
    assert lines([warning]) == ["f:1:2: warning[c] on katib: p: m; and"]
    both = [Finding("f", 1, 2, "p", text, "error", code="c") for text in ("one", "two")]
    assert lines(both) == ["f:1:2: error[c]: p: one", "f:1:2: error[c]: p: two"]
    other = Finding("f", 1, 2, "p", "m", "error", on=CLUSTERS, code="c")
    assert len(lines([error, other])) == 2


def test_the_summary_counts_levels() -> None:
    levels = ["error", "warning", "warning", "note"]
    findings = [Finding("f", 0, 0, "", "m", level, on=EVERYWHERE, code="c") for level in levels]  # type: ignore[arg-type]
    assert summary(findings, 3) == "3 files: 1 error, 2 warnings, 1 note"


def test_lint_loads_no_heavy_library() -> None:
    file = Path(__file__).parents[2] / "katib" / "digits-tpe.yaml"
    code = f"import sys\nfrom katuna.cli import main\ntry: main(['lint', {str(file)!r}])\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "yaml" in loaded
    assert not loaded & {"optuna", "numpy", "torch", "re2", "rich", "pandas", "plotly", "scipy"}
