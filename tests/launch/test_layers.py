"""Views: what a process sees, where its writes go, and that nothing else changes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_jobs import PATIENCE_S
from starts import STARTERS, Bench, Trial, alive, is_warm

from katuna.launch import layers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")

LOOK = """\
import os, pathlib
print(sorted(os.listdir(".")), pathlib.Path("code.txt").read_text())
pathlib.Path("code.txt").write_text("mine")
pathlib.Path("new.txt").write_text("new")
os.remove("data.txt")
print(os.path.exists("/tmp/somebody"), os.path.abspath("."))
open("/tmp/mine", "w").close()
open("run/kept.txt", "w").close()
print(os.getuid(), len(os.listdir("/proc/self/task")))
"""


class Place:
    """A working folder with a file of code that was edited since, some data, and a folder that all see."""

    def __init__(self, top: Path) -> None:
        self.top, self.folder, self.code = top, top / "w,o:r k\\d\u00e4r", top / "code"
        self.upper, self.inner, self.tmp = top / "upper", top / "inner", top / "tmp"
        for each in (self.folder / "run", self.code, self.upper, self.inner, self.tmp):
            each.mkdir(parents=True)
        (self.code / "code.txt").write_text("kept")
        (self.folder / "code.txt").write_text("edited")
        (self.folder / "data.txt").write_text("data")
        self.view = (
            ("own", "/tmp", str(self.tmp)),  # noqa: S108
            ("layer", *map(str, (self.folder, self.upper, self.inner, self.code, self.folder))),
            ("keep", str(self.folder / "run")),
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(params=STARTERS)
def bench(request: pytest.FixtureRequest, place: Place) -> Iterator[Bench]:
    starter = STARTERS[request.param]()
    yield Bench(starter, place.folder)
    starter.close()


def test_a_process_sees_the_folder_and_writes_into_its_layer(bench: Bench, place: Place) -> None:
    bench.script(LOOK)
    trial = bench.run("python", "program.py", view=place.view)
    assert trial.end == (0, 0), trial.text
    seen, others, own = trial.text.splitlines()
    assert seen.startswith("['code.txt', 'data.txt', 'program.py', 'run', 'trial1'] kept")
    assert others == f"False {place.folder}"
    assert own == f"{os.getuid()} 1"
    assert (place.folder / "code.txt").read_text() == "edited"
    assert (place.folder / "data.txt").read_text() == "data"
    assert not (place.folder / "new.txt").exists()
    assert (place.folder / "run" / "kept.txt").exists()
    assert (place.upper / "new.txt").read_text() == "new"
    assert (place.upper / "code.txt").read_text() == "mine"
    assert (place.tmp / "mine").exists()
    assert not Path("/tmp/mine").exists()  # noqa: S108


def test_a_program_that_only_the_layer_below_has_starts_as_warm_as_another(bench: Bench, place: Place) -> None:
    (place.code / "only.py").write_text("print('from the kept code')")
    trial = bench.run("python", "only.py", view=place.view)
    assert trial.text == "from the kept code\n"
    if bench.starter.__class__.__name__ == "WarmStarter":
        assert is_warm(trial), trial.process.how


def test_a_module_that_hides_a_librarys_is_found_in_every_layer(bench: Bench, place: Place) -> None:
    (place.upper / "numpy.py").write_text("print('of the trial itself')")
    bench.script("import numpy")
    trial = bench.run("python", "program.py", view=place.view)
    assert trial.text == "of the trial itself\n"


def test_a_view_that_cannot_be_made_is_an_end_that_says_so(bench: Bench, place: Place) -> None:
    bench.script("print('never')")
    trial = bench.run("python", "program.py", view=(("keep", str(place.folder / "nowhere")),))
    assert (trial.said["failed"]["stage"], trial.said["failed"]["errno"]) == ("files", 2)
    assert trial.text == ""


def test_what_has_a_view_ends_with_its_guard(bench: Bench, place: Place) -> None:
    bench.script("import time; print('up', flush=True); time.sleep(600)")
    trial = _up(bench.begin("python", "program.py", view=place.view))
    os.kill(trial.process.guard_pid, 9)
    trial.listen()
    give_up = time.monotonic() + PATIENCE_S
    while alive(trial.pid):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def _up(trial: Trial) -> Trial:
    while "up" not in trial.text:
        trial.listen("started")
    return trial


def test_a_view_travels_as_words(place: Place) -> None:
    assert layers.steps(layers.flat(place.view)) == list(place.view)
    assert layers.steps(layers.flat(())) == []


def test_where_a_path_is_looked_for(place: Place) -> None:
    folder = str(place.folder)
    found = list(layers.trees(place.view, f"{folder}/code.txt"))
    assert found == [f"{tree}/code.txt" for tree in (place.upper, place.code, folder)]
    assert list(layers.trees(place.view, f"{folder}/run/x")) == [f"{folder}/run/x"]
    assert list(layers.trees(place.view, f"{folder}x")) == [f"{folder}x"]
