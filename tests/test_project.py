"""The files around the package say what is so: the user's examples, the build, the pins, the image."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from katuna.lint.load import Source, lint, load_experiment
from katuna.manifest.build import job_from_manifest
from katuna.manifest.experiment import Experiment
from katuna.manifest.render import render
from katuna.runtime.arguments import parse
from programs import imported

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "katib").glob("*.yaml"))
TRAINING_JOBS = sorted((ROOT / "training_jobs").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def source(file: Path) -> Source:
    return Source(str(file), file.read_text(encoding="utf-8"))


def experiment(file: Path) -> Experiment:
    return load_experiment([source(file)]).experiment


def parse_flags(argv: tuple[str, ...]) -> Any:
    """What the trainer that the command names makes of its flags; SystemExit for one that it does not know."""
    assert argv[0] in ("python", "torchrun")
    script = ROOT / argv[1]
    trainer = sys.modules.get(script.stem) or imported(script)
    return parse(trainer.Config, list(argv[2:]))


# katib/ and training_jobs/


@pytest.mark.parametrize("file", [*EXPERIMENTS, *TRAINING_JOBS], ids=lambda file: file.name)
def test_the_examples_are_without_remark(file: Path) -> None:
    assert [str(finding) for finding in lint([source(file)]) if finding.level != "note"] == []


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.name)
def test_both_ends_of_a_search_space_are_flags_that_the_trainer_takes(file: Path) -> None:
    search = experiment(file)
    assert search.name == file.stem
    for end in (0, -1):
        values = {
            each.name: (each.minimum, each.maximum)[end] if each.is_numeric else each.choices[end] for each in search.parameters
        }
        job = job_from_manifest(render(search, f"{search.name}-0", values), search.template.primary_container)
        container = job.replicas[0].container
        config = vars(parse_flags((*container.command, *container.args)))
        for name, value in values.items():
            taken = config[name.replace("-", "_")]
            assert type(taken)(value) == taken


@pytest.mark.parametrize("file", TRAINING_JOBS, ids=lambda file: file.name)
def test_a_training_job_names_flags_that_the_trainer_takes(file: Path) -> None:
    (manifest,) = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    container = job_from_manifest(manifest).replicas[0].container
    assert parse_flags((*container.command, *container.args)).dataset == "digits"


def test_the_demo_shows_all_that_it_is_to_show() -> None:
    search = experiment(ROOT / "katib" / "digits-tpe.yaml")
    assert search.algorithm == "tpe"
    assert search.settings
    assert {(each.type, each.distribution) for each in search.parameters} >= {("double", "logUniform"), ("int", "uniform")}
    assert "categorical" in {each.type for each in search.parameters}
    assert search.parallel_trials == 2
    assert search.max_trials is not None
    assert search.max_trials >= 12
    assert search.max_failed is not None
    assert search.objective.goal is None
    assert search.template.primary_container == "pytorch"
    assert set(search.manifest["spec"]["trialTemplate"]["trialSpec"]["spec"]["pytorchReplicaSpecs"]) == {"Master"}


# Makefile

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")

STUB = """#!/bin/sh
# Stands in for Python: writes down what it was asked for, and a virtual environment is its own copy.
echo "$*" >> "$CALLS"
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) exit "$PIP_EXIT" ;;
esac
"""


class Build:
    """A folder with the project's build files, and a Python that only takes notes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        python = folder / "python-stub"
        python.write_text(STUB, encoding="utf-8")
        python.chmod(python.stat().st_mode | stat.S_IXUSR)

    def make(self, *words: str, pip_exit: int = 0) -> tuple[int, list[str]]:
        """The exit code, and `check`, `venv` or `pip` for each call of Python."""
        calls = self.folder / "calls"
        calls.write_text("", encoding="utf-8")
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name not in ("VENV", "PYTHON")
        }
        env = {**kept, "CALLS": str(calls), "PIP_EXIT": str(pip_exit)}
        done = subprocess.run(
            ["make", "PYTHON=./python-stub", *words],  # noqa: S607
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.output = done.stdout + done.stderr
        notes = re.findall(r"^-(c|m venv|m pip)\b", calls.read_text(encoding="utf-8"), re.MULTILINE)
        return done.returncode, [{"c": "check", "m venv": "venv", "m pip": "pip"}[note] for note in notes]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


@needs_make
def test_the_environment_is_built_once(build: Build) -> None:
    assert build.make("venv") == (0, ["check", "venv", "pip"])
    assert "3 GB" in build.output
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(build.folder / name)
    assert build.make("venv") == (0, [])


@needs_make
@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_the_pins_is_installed_into_the_environment(build: Build, name: str) -> None:
    build.make("venv")
    with (build.folder / name).open("a", encoding="utf-8") as file:
        file.write("# another\n")
    assert build.make("venv") == (0, ["check", "pip"])
    assert build.make("venv") == (0, [])


@needs_make
def test_an_environment_whose_installation_failed_is_built_anew(build: Build) -> None:
    code, calls = build.make("venv", pip_exit=1)
    assert code != 0
    assert calls == ["check", "venv", "pip"]
    assert build.make("venv") == (0, ["check", "venv", "pip"])


@needs_make
def test_a_python_that_is_too_old_is_refused() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    check = text.partition("define PYTHON_CHECK\n")[2].partition("endef")[0]
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=60).returncode == 0
    old = "import sys; sys.version_info = (3, 10, 13)\n"
    done = subprocess.run([sys.executable, "-c", old + check], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert re.match(r"katuna needs Python 3\.11, 3\.12 or 3\.13, and .* is 3\.10: name another", done.stderr)


@needs_make
def test_make_help_lists_every_target(build: Build) -> None:
    assert build.make()[0] == 0
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    assert {line.split()[1] for line in build.output.splitlines()} == set(phony[1].split())


@needs_make
def test_the_two_commands_of_the_readme_run_what_they_say(build: Build) -> None:
    assert build.make("-n", "demo")[0] == 0
    assert ".venv/bin/katuna tune katib/digits-tpe.yaml" in build.output
    assert build.make("-n", "check")[0] == 0
    for tool in ("ruff format --check", "ruff check", "mypy", "pytest"):
        assert f".venv/bin/{tool}" in build.output


# constraints.txt and .ci/run


def imports_of(folder: Path) -> set[str]:
    """The top-level names that the folder's files import and that neither Python nor the project has."""
    files = list(folder.rglob("*.py"))
    statements = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    names = {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in statements if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    ours = (
        {"katuna"}
        | {path.stem for path in (ROOT / "tests").rglob("*") if path.suffix in ("", ".py")}
        | {file.stem for file in files}
    )
    return {name.split(".")[0] for name in names} - ours - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("src", {"cluster"}), ("trainers", {"cluster"}), ("benchmarks", {"dev"}), ("tests", {"cluster", "dev"})],
)
def test_what_is_imported_is_declared(folder: str, extras: set[str]) -> None:
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    providers = packages_distributions()
    undeclared = {
        name: providers.get(name)
        for name in imports_of(ROOT / folder)
        if not declared & {canonicalize_name(provider) for provider in providers.get(name, [])}
    }
    assert undeclared == {}


def test_every_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    pins = {name.lower().replace("_", "-"): Version(version) for name, version in (line.split("==") for line in lines)}
    assert len(pins) == len(lines)
    wanted = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    for requirement in map(Requirement, wanted):
        assert pins[requirement.name.lower().replace("_", "-")] in requirement.specifier, str(requirement)


def test_ci_is_a_strict_script_that_ends_with_the_checks() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(script)], check=False, timeout=60).returncode == 0  # noqa: S607
    assert "\nset -euo pipefail\n" in text
    assert text.splitlines()[-2:] == ["make check", "make test-slow"]


# Dockerfile.gpu


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile.gpu").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_image_has_a_base_of_choice_and_a_user_that_is_not_root() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "CMD"}
    assert words[:2] == ["ARG", "FROM"]
    assert instructions()[0][1].startswith("BASE_IMAGE=")
    assert instructions()[1][1] == "${BASE_IMAGE}"
    users = [rest for word, rest in instructions() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_the_image_copies_what_is_there_and_what_the_examples_name() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    copied = {}
    for word, rest in instructions():
        if word == "COPY":
            *sources, target = rest.split()
            copied |= dict.fromkeys(sources, target)
    assert set(copied) == let_in
    for name in copied:
        assert (ROOT / name).exists(), name
    assert copied["trainers"] == "trainers"  # below WORKDIR, as below the repository: one command for both


# Citations


def test_every_section_that_is_cited_is_in_docs_reference() -> None:
    """`(katib.md 4.1)` is section 4.1 of docs/reference/katib.md."""
    headings = {
        page.name: set(re.findall(r"^#+ ([0-9]+(?:\.[0-9]+)*)", page.read_text(encoding="utf-8"), re.MULTILINE))
        for page in (ROOT / "docs" / "reference").glob("*.md")
    }
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    cited = [
        (place.relative_to(ROOT), page, number)
        for place in places
        for page, numbers in re.findall(
            r"\b(katib\.md|training-operator\.md),? ([0-9][0-9., and-]*)", place.read_text(encoding="utf-8")
        )
        for number in re.findall(r"[0-9]+(?:\.[0-9]+)*", numbers)
    ]
    assert len(cited) > 40
    assert [each for each in cited if each[2] not in headings[each[1]]] == []
