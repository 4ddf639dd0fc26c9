"""Commands under Katib's `sh -c`, and scripts that never print the metric."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import JOB, changed
from katuna.errors import KATIB, Finding
from katuna.lint.load import Source, lint
from katuna.lint.shell import script_of

COMMAND = 'command: [python, train.py, "--lr=${trialParameters.learningRate}"]'


def wrapped(command: str, args: str | None = None) -> list[Finding]:
    """What is said of a command; the placeholder of the learning rate stands in `args`."""
    text = changed(JOB, COMMAND, f"command: {command}")
    text = changed(text, 'args: ["--layers', f'args: [{args or ""}"--lr=${{trialParameters.learningRate}}", "--layers')
    return list(lint([Source("f.yaml", text)], read_script=lambda _: None))


def script(text: str) -> list[Finding]:
    """What is said of `sh -c` with that script."""
    command = next(line for line in JOB.splitlines() if "args:" in line)
    whole = changed(JOB, command + "\n", "")
    body = text.replace(
        "TRAIN", "python train.py ${trialParameters.learningRate} ${trialParameters.layers} ${trialParameters.optimizer}"
    )
    quoted = body.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return list(lint([Source("f.yaml", changed(whole, COMMAND, f'command: [sh, -c, "{quoted}"]'))], read_script=lambda _: None))


@pytest.mark.parametrize(
    "argument", ["'a b'", "\"it's\"", "'say \"x\"'", "'$HOME'", "'a;b'", "'*.py'", "'a<b'", "'a>b'", "'a&b'", "'a|b'", "'~/x'", "'#x'", "''", "'a\\b'", "'a`b'", "'{a: (b)}'"]
)  # fmt: skip
def test_arguments_that_the_shell_would_change(argument: str) -> None:
    findings = wrapped(f"[python, train.py, {argument}]")
    assert [(each.code, each.level, each.on) for each in findings] == [("shell-wrapping", "warning", KATIB)]
    assert findings[0].path.endswith("containers[0].command[2]")


@pytest.mark.parametrize("argument", ["--a=1", "'a~b'", "'a#b'", "/x/y.z", "'a,b:c@d%e+f'", "'[1,2]'", "'$(KATIB_TRIAL_NAME)'"])
def test_arguments_that_it_leaves_alone(argument: str) -> None:
    assert wrapped(f"[python, train.py, {argument}]") == []


MASTER = "[python, train.py, '--m=$(MASTER)']"


def test_a_reference_to_no_variable_is_a_command_to_the_shell() -> None:
    (finding,) = wrapped(MASTER)
    assert (finding.code, finding.level, finding.on) == ("shell-wrapping", "warning", KATIB)
    assert finding.path.endswith("containers[0].command[2]")
    assert "MASTER" in finding.message


@pytest.mark.parametrize(
    "fields", ["env: [{name: MASTER, value: m}]", "envFrom: [{configMapRef: {name: settings, optional: true}}]"]
)
def test_a_reference_to_a_variable_that_may_be_there(fields: str) -> None:
    image = "                image: registry.example/trial:1\n"
    text = changed(JOB, image, f"{image}                {fields}\n")
    text = changed(text, '[python, train.py, "--lr', "[python, train.py, '--m=$(MASTER)', \"--lr")
    assert [each for each in lint([Source("f.yaml", text)], read_script=lambda _: None) if each.level == "warning"] == []


def test_choices_are_arguments_too() -> None:
    text = changed(JOB, "[sgd, adam]", "[sgd, 'adam w']")
    (finding,) = lint([Source("f.yaml", text)], read_script=lambda _: None)
    assert (finding.code, finding.path) == ("shell-wrapping", "spec.parameters[2].feasibleSpace.list[1]")


def test_push_wraps_nothing() -> None:
    text = changed(JOB, "[sgd, adam]", "[sgd, 'adam w']")
    text = changed(text, "  parallelTrialCount", "  metricsCollectorSpec: {collector: {kind: Push}}\n  parallelTrialCount")
    assert lint([Source("f.yaml", text)], read_script=lambda _: None) == ()


@pytest.mark.parametrize(
    "text",
    ["TRAIN", "cd /app && TRAIN", "set -e; cd /app\nTRAIN", "for i in 1 2; do TRAIN; done", "TRAIN 2>&1", "A=b TRAIN > x.log"],
)
def test_scripts_that_katib_reads(text: str) -> None:
    assert script(text) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("TRAIN\n", "unread-output"),
        ("TRAIN;", "unread-output"),
        ("TRAIN\n# done", "unread-output"),
        ("TRAIN; echo done", "unread-output"),
        ("TRAIN && cp -r out /data", "unread-output"),
        ("exec TRAIN", "shell-ends-early"),
        ("TRAIN || exit 3", "shell-ends-early"),
    ],
)
def test_scripts_that_katib_does_not_read_to_the_end(text: str, code: str) -> None:
    findings = script(text)
    assert code in {each.code for each in findings}
    assert {(each.level, each.on) for each in findings} == {("warning", KATIB)}


@pytest.mark.parametrize("shell", ["/bin/sh, -c", "/bin/bash, -c", "bash, -ec", "sh, -lc"])
def test_only_two_shells_are_left_alone(shell: str) -> None:
    findings = wrapped(f"[{shell}, python train.py]")
    assert [(each.code, each.path.rpartition(".")[2]) for each in findings] == [("shell-wrapping", "command[0]")]


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        (["python", "-u", "a/train.py", "--x=b.py"], "a/train.py"),
        (["/usr/bin/python3.12", "train.py"], "train.py"),
        (["torchrun", "--nproc-per-node=2", "train.py"], "train.py"),
        (["sh", "-c", "cd app && python 'my train.py' 1"], "my train.py"),
        (["python", "-m", "pkg.train"], ""),
        (["./train"], ""),
        (["sh", "-c", "python 'unclosed"], ""),
        ([], ""),
    ],
)
def test_the_script_of_a_command(argv: list[str], path: str) -> None:
    assert script_of(argv) == path


PRINTS = "import os\nimport helper\nfor epoch in range(3):\n    print(f'epoch={epoch} val-acc={epoch / 3}')\n"


def said(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> list[Finding]:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    return list(lint([Source("f.yaml", JOB)]))


def test_a_metric_that_the_script_never_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finding,) = said(tmp_path, monkeypatch, train=PRINTS)
    assert (finding.code, finding.level, finding.path) == (
        "metric-never-printed",
        "warning",
        "spec.objective.objectiveMetricName",
    )
    assert finding.value == "'accuracy'"


@pytest.mark.parametrize(
    "text",
    [
        PRINTS.replace("val-acc", "accuracy"),
        PRINTS + "# accuracy",
        "from trl import Trainer\nfor name, value in Trainer().run().items():\n    print(f'{name}={value}')\n",
        "import trainer\ntrainer.main()\n",
        "for name in names('val', 'accuracy'):\n    print('{}={}'.format(name, 1))\n",
    ],
)
def test_a_script_that_may_print_it(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(tmp_path, monkeypatch, train=text) == []


def test_what_a_script_imports_from_beside_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(tmp_path, monkeypatch, train=PRINTS, helper="def say(x):\n    print('accuracy=', x)\n") == []


def test_a_script_that_is_not_here_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(tmp_path, monkeypatch) == []
