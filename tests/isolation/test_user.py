"""What holds for root holds for an ordinary user too."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from as_nobody import NOBODY
from harness import HOSTILE, IN_A_TREE, QUICK, TWO, Site, alone, starts, values, ways, wrong

HERE = Path(__file__).parent
AS_NOBODY = (sys.executable, HERE / "as_nobody.py")
NO_MOUNTS = (sys.executable, HERE / "no_mounts.py")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root can become another user; the other tests run as this one"
)


def nobody_can(program: str) -> bool:
    done = subprocess.run([*map(str, AS_NOBODY), sys.executable, "-c", program], capture_output=True, check=False, cwd="/")
    return done.returncode == 0


@pytest.fixture(params=["/tmp", "/var/tmp"])  # noqa: S108
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A folder of that user's. Skips where this installation is closed to others."""
    if not nobody_can("import katuna"):
        pytest.skip("an ordinary user can neither reach this Python nor be shown it")
    with tempfile.TemporaryDirectory(dir=request.param, ignore_cleanup_errors=True) as folder:
        home = Path(folder, "home")
        home.mkdir()
        variables = {"HOME": str(home), "USER": "nobody", "LOGNAME": "nobody"}
        made = Site(Path(folder), before=AS_NOBODY, variables=variables)
        for path in (Path(folder), *Path(folder).rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        yield made
        made.close()


def check(site: Site, names: tuple[str, ...], way: str, *options: str, parallel: int) -> None:
    run = site.search(names, *options, parallel=parallel, lrs=TWO)
    assert run.stat().st_uid == NOBODY
    assert ways(run) == {way}, site.said
    assert wrong(values(run), alone(names, TWO)) == {}
    assert site.changes() == {}
    assert site.left_on_the_machine() == []


@pytest.fixture
def _namespaces() -> None:
    if not nobody_can("import ctypes; assert ctypes.CDLL(None).unshare(0x10020000) == 0"):
        pytest.skip("this kernel gives an ordinary user no namespaces")


@pytest.mark.parametrize("site", ["/tmp"], indirect=True)  # noqa: S108
@pytest.mark.usefixtures("_namespaces")
def test_an_ordinary_users_trials_have_the_values_that_they_have_alone(site: Site) -> None:
    check(site, QUICK, "layer", parallel=4)


@pytest.mark.parametrize("site", ["/tmp"], indirect=True)  # noqa: S108
@pytest.mark.usefixtures("_namespaces")
@pytest.mark.parametrize(("mode", "way"), [(0o666, "mirrored"), (0o644, "layer")])
def test_who_may_write_files_of_another_group_has_mirrored_trees(site: Site, mode: int, way: str) -> None:
    """In a layer that would fail with EOVERFLOW."""
    path = site.add("teams.txt", "team")
    os.chown(path, 0, 0)
    path.chmod(mode)
    site.add("job.yaml", site.job("python", "-c", f"open('teams.txt', 'r{'+' if way == 'mirrored' else ''}').read()"))
    done = site.katuna("train", "job.yaml", "--map=/opt/store=./linked store", "--map=/opt/app=./app")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ways(site.runs / "hostile") == {way}
    assert ("teams.txt is not your own user's and group's alone" in done.stdout) == (way == "mirrored")
    assert path.read_text() == "team"


@pytest.mark.parametrize("site", ["/tmp"], indirect=True)  # noqa: S108
@pytest.mark.usefixtures("_namespaces")
def test_a_layer_gives_an_ordinary_users_program_no_capability(site: Site) -> None:
    """A forked process would keep what its user namespace gave it."""
    site.add("program.py", "print([line for line in open('/proc/self/status') if line.startswith(('CapEff', 'CapPrm'))])")
    run = site.train("python", "program.py")
    assert {(start["start"], start["files"]) for start in starts(run)} == {("warm", "layer")}
    caps = [f"{name}:\t{0:016x}\n" for name in ("CapPrm", "CapEff")]
    assert (run / "log").read_text() == f"{caps}\n"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["warm", "cold"])
@pytest.mark.usefixtures("_namespaces")
def test_every_trainer(site: Site, how: str) -> None:
    check(site, HOSTILE, "layer", *(["--cold"] if how == "cold" else []), parallel=4)


@pytest.mark.slow
@pytest.mark.parametrize("site", ["/tmp"], indirect=True)  # noqa: S108
def test_every_trainer_in_a_tree(site: Site) -> None:
    site.before = (*AS_NOBODY, *NO_MOUNTS)
    check(site, IN_A_TREE, "mirrored", parallel=4)


@pytest.mark.slow
@pytest.mark.parametrize("site", ["/tmp"], indirect=True)  # noqa: S108
@pytest.mark.usefixtures("_namespaces")
def test_a_folder_that_cannot_be_renamed_in_one_step_fails_the_trial_and_gives_no_value(site: Site) -> None:
    """EXDEV, as in a container; shutil.move and mv copy then, see the trainer moves_folder."""
    assert site.katuna(*site.tune(["renames_folder"], parallel=4)).returncode in (0, 1)
    run = site.runs / "hostile"
    right = alone(["renames_folder"])
    assert all(value in (None, right[point]) for point, value in values(run).items())
    assert all("cross-device" in log.read_text() or "acc=" in log.read_text() for log in run.glob("trials/*/log"))
    assert site.changes() == {}


@pytest.mark.slow
@pytest.mark.parametrize("site", ["/var/tmp"], indirect=True)  # noqa: S108
@pytest.mark.usefixtures("_namespaces")
def test_an_ordinary_user_can_remove_the_run(site: Site) -> None:
    check(site, QUICK, "layer", parallel=4)
    done = site.katuna("rm", "hostile")
    assert done.returncode == 0, done.stderr
    assert [path for path in site.runs.iterdir() if "hostile" in path.name] == []
