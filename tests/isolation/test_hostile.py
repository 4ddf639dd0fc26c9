"""Trainers that do what is usual and hostile to their neighbours: each value is that of the trial run alone, and the user's folder stays."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import HOSTILE, LRS, QUICK, TWO, Site, alone, digest, printed, starts, values, ways, wrong

from searches import journal_events
from toy_jobs import pytorchjob


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """As most searches: started where the trainers lie, with its runs below. It lies in /tmp."""
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def site_elsewhere() -> Iterator[Site]:
    """Outside of /tmp, with its runs in a folder apart."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        made = Site(Path(folder), Path(folder, "elsewhere"))
        yield made
        made.close()


@pytest.fixture(params=["below-tmp", "elsewhere"])
def any_site(request: pytest.FixtureRequest) -> Site:
    made = request.getfixturevalue("site" if request.param == "below-tmp" else "site_elsewhere")
    assert isinstance(made, Site)
    return made


def is_as_it_was(site: Site) -> None:
    assert site.changes() == {}
    assert site.left_on_the_machine() == []
    assert [path for path in site.runs.iterdir() if not path.name.startswith((".", "hostile"))] == [], "what is no run"


def check(site: Site, names: tuple[str, ...], *options: str, parallel: int) -> None:
    lrs = LRS if parallel > 1 else TWO
    run = site.search(names, *options, parallel=parallel, lrs=lrs)
    assert ways(run) == {"layer"}, site.said
    assert wrong(values(run), alone(names, lrs)) == {}
    is_as_it_was(site)


def test_trials_at_a_time_have_the_values_that_they_have_alone(site: Site) -> None:
    check(site, QUICK, parallel=4)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 4], ids=["one-at-a-time", "four-at-a-time"])
@pytest.mark.parametrize("how", ["warm", "cold"])
def test_every_trial_has_the_value_that_it_has_alone(any_site: Site, how: str, parallel: int) -> None:
    check(any_site, HOSTILE, *(["--cold"] if how == "cold" else []), parallel=parallel)
    assert {start["start"] for start in starts(any_site.runs / "hostile")} == {how}


@pytest.mark.slow
def test_a_job_finds_nothing_of_the_one_before(any_site: Site) -> None:
    """One Job in which every trainer runs once, run twice: they meet in its layer, where no two use the same names."""
    for lr in ("0.1", "0.3"):
        right = [f"{name}={value}" for (name, _), value in alone(HOSTILE, [lr]).items()]
        run = any_site.train(
            "bash", "-c", f"for name in {' '.join(HOSTILE)}; do python $name.py --lr={lr} | sed s/^acc/$name/; done"
        )
        assert [line for line in (run / "log").read_text().splitlines() if line.partition("=")[0] in HOSTILE] == right
        is_as_it_was(any_site)
        assert ways(run) == {"layer"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["warm", "cold"])
@pytest.mark.parametrize("name", QUICK)
def test_a_trainer_finds_nothing_of_its_last_run(site: Site, name: str, how: str) -> None:
    for lr in ("0.1", "0.3"):
        run = site.train("python", f"{name}.py", f"--lr={lr}", options=["--cold"] if how == "cold" else [])
        assert printed((run / "log").read_text()) == alone([name], [lr])[name, lr]
        assert [start["start"] for start in starts(run)] == [how]
    is_as_it_was(site)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's layers can do it; test_user.py says what they do for others")
def test_a_folder_of_the_users_is_renamed_for_one_trial_alone(site: Site) -> None:
    check(site, ("renames_folder",), parallel=4)


@pytest.mark.slow
def test_a_program_that_a_shell_writes_and_runs(site: Site) -> None:
    """As SDKs send a Python function: the command writes it into the working folder and runs it."""
    text = """cat > train_fn.py <<END
import time
time.sleep(0.2)
print("acc=${trialParameters.lr}00000")
END
python train_fn.py"""
    site.add("train_fn.py", "# mine\n")
    tune, path, *others = site.tune(["appends"], parallel=4)
    whole = yaml.safe_load((site.folder / path).read_text())
    template = whole["spec"]["trialTemplate"]
    pod = template["trialSpec"]["spec"]["template"]["spec"]
    pod["containers"][0]["command"] = ["bash", "-c", text]
    pod["containers"][0]["env"].append({"name": "TRAINER", "value": "${trialParameters.trainer}"})
    site.add("experiment.yaml", yaml.safe_dump(whole))
    done = site.katuna(tune, path, *others)
    assert done.returncode == 0, done.stderr
    assert wrong(values(site.runs / "hostile"), alone(["appends"])) == {}
    is_as_it_was(site)


def shown_layers(run: Path, name: str) -> list[str]:
    """What the trials' layers hold under this name."""
    return sorted(path.read_text() for path in run.glob(f"trials/*/work/**/{name}"))


def test_what_trials_leave_lies_in_their_folders(site: Site) -> None:
    run = site.search(["fills_trial_folder"], parallel=2)
    assert sorted(path.read_text() for path in run.glob("trials/*/model")) == ["0.1", "0.2", "0.3", "0.4"]
    assert shown_layers(run, "fills_trial_folder.out") == ["0.1", "0.2", "0.3", "0.4"]
    is_as_it_was(site)


@pytest.mark.slow
def test_what_a_job_leaves_lies_in_its_run(site: Site) -> None:
    run = site.train("python", "fills_trial_folder.py", "--lr=0.3")
    assert (run / "model").read_text() == "0.3"
    assert [path.read_text() for path in run.glob("work/**/fills_trial_folder.out")] == ["0.3"]
    is_as_it_was(site)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["none", "TMPDIR"])
def test_tmp_begins_empty(site_elsewhere: Site, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch sets it in a process that has compiled something, to a folder of /tmp: which a trial is shown then, as it is told of it.
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    mine = site_elsewhere.base / "mine"
    mine.mkdir()
    (mine / "of the user").touch()
    site_elsewhere.variables = {"TMPDIR": str(mine)} if variable == "TMPDIR" else {}
    run = site_elsewhere.search(["lists_tmp", "tmp_dir"], parallel=2)
    right = {("lists_tmp", lr): f"{float(lr):.6f}" for lr in ("0.1", "0.2", "0.3", "0.4")}
    assert wrong(values(run), {**right, **alone(["tmp_dir"])}) == {}
    assert [path.name for path in mine.iterdir()] == ["of the user"]
    is_as_it_was(site_elsewhere)


@pytest.mark.slow
def test_the_cache_in_the_home_folder_is_shared(site_elsewhere: Site) -> None:
    home = site_elsewhere.base / "home"
    home.mkdir()
    site_elsewhere.variables = {"HOME": str(home)}
    run = site_elsewhere.search(["fills_cache"], parallel=1)
    assert list(values(run).values()) == ["0.100000", "0.400000", "0.900000", "1.600000"]
    assert len((home / ".cache/hub/log").read_text().splitlines()) == 4
    is_as_it_was(site_elsewhere)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 4])
def test_a_dataset_below_tmp_is_seen_and_stays(site: Site, parallel: int) -> None:
    data = site.base / "data"
    data.mkdir()
    for name in "ab":
        (data / name).write_text(name)
    before = digest(data)
    run = site.search(["reads_data"], "--data", data, parallel=parallel)
    assert values(run) == {("reads_data", lr): f"{2 * float(lr):.6f}" for lr in ("0.1", "0.2", "0.3", "0.4")}
    assert digest(data) == before
    is_as_it_was(site)


TALK = """
import os, sys, time
mine, other = (f"/dev/shm/{os.environ['MARK']}.{rank}" for rank in (os.environ["RANK"], str(1 - int(os.environ["RANK"]))))
found = [name for name in os.listdir("/dev/shm") if name.endswith(".done")]
open(mine, "w").write("here")
until = time.monotonic() + 20
while not os.path.exists(other):
    assert time.monotonic() < until, "the other replica was never seen"
    time.sleep(0.01)
open(mine + ".done", "w").close()
print(f"found={len(found) if os.environ['RANK'] == '0' else 0}", flush=True)
"""


@pytest.mark.slow
def test_replicas_meet_in_dev_shm_and_leave_nothing_there(site: Site) -> None:
    document = pytorchjob(TALK, name="hostile", workers=1, env={"MARK": site.mark})
    site.add("job.yaml", yaml.safe_dump(document))
    for _ in range(2):
        done = site.katuna("train", "job.yaml")
        assert done.returncode == 0, (done.stdout, done.stderr)
        is_as_it_was(site)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 4], ids=["one-at-a-time", "four-at-a-time"])
def test_a_port_that_is_taken_is_named_and_no_value_is_a_neighbours(site: Site, parallel: int) -> None:
    """What a machine has once: the network's ports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        site.port = free.getsockname()[1]
    run = site.search(["fixed_port"], parallel=parallel)
    found, right = values(run), {("fixed_port", lr): f"{float(lr):.6f}" for lr in ("0.1", "0.2", "0.3", "0.4")}
    assert {point: value for point, value in found.items() if value is not None}.items() <= right.items()
    messages = [
        event["message"] for event in journal_events(run) if event["event"] == "Exited" and event["reason"] != "Completed"
    ]
    assert len(messages) == list(found.values()).count(None)
    assert bool(messages) == (parallel > 1)
    for message in messages:
        assert "Address already in use" in message
        assert "port" in message, "what to do about it"
    is_as_it_was(site)


@pytest.mark.slow
def test_whoever_asks_for_shared_files_has_them(site: Site) -> None:
    run = site.search(["appends"], "--shared-files", parallel=1)
    assert list(values(run).values()) == ["0.100000", "0.100000", "0.100000", "0.100000"]
    assert ways(run) == {"shared"}
    assert len((site.folder / "appends.log").read_text().splitlines()) == 4
    run = site.train("python", "appends.py", "--lr=0.5", options=["--in-place"])
    assert printed((run / "log").read_text()) == "0.100000"
    assert ways(run) == {"shared"}
