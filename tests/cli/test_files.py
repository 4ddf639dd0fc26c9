"""Files of their own, as people meet them: what verbs say, what stays real, and what becomes of a run that can have none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

import katuna
from katuna.errors import FilesMixed
from katuna.launch import mirror, workspace
from katuna.launch.local_options import LocalOptions
from katuna.runs import conduct
from katuna.runs.plan import RunOptions
from searches import KATUNA, await_line, journal_events, objects, spawn, write_experiment
from searches import katuna as command
from toy_jobs import pytorchjob

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")

WRITES = """\
import os, sys
lr = float(sys.argv[1])
os.makedirs("out", exist_ok=True)
open("out/model.bin", "wb").write(bytes(1200))
open("seen.txt", "a").write("x")
os.remove("input.txt")
print(f"accuracy={1 - abs(lr - 0.3) - len(open('seen.txt').read()):.6f}")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "input.txt").write_text("input")
    (folder / "program.py").write_text(WRITES)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("KATUNA_HOME")
    return folder


def search(folder: Path, **changes: object) -> Path:
    return write_experiment(folder, command=["python", "program.py", "${trialParameters.lr}"], **changes)


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"experiment.yaml", "job.yaml", "runs"}


def ways(run: Path) -> set[str]:
    started = ("Started", "ContainerStarted")
    return {event["process"]["files"] for event in journal_events(run) if event["event"] in started}


def test_what_a_trial_left_is_named(here: Path) -> None:
    done = command("tune", str(search(here)))
    assert done.returncode == 0, done.stderr
    assert "what is written here goes to work/ in the trial's folder" in done.stdout
    assert entries(here) == {"input.txt", "program.py"}
    assert ways(here / "runs" / "toy") == {"layer"}
    shown = command("show", "toy/2").stdout
    assert [line.split(maxsplit=1)[1] for line in shown.splitlines() if line.startswith("Left")] == [
        *("1.2 kB  work/out/model.bin", "   1 B  work/seen.txt".strip(), "removed  work/input.txt"),
    ]
    assert "Files     layer" in shown
    assert "Files      layer" in command("show").stdout
    best = objects("best", "toy")["metadata"]["name"]
    assert command("best", "-o", "files").stdout.strip() == str(here / "runs" / "toy" / "trials" / best / "work")
    assert objects("show", "toy/2")["kind"] == "Trial"


def test_a_trial_that_is_none_is_told(here: Path) -> None:
    assert command("tune", str(search(here))).returncode == 0
    missing = command("show", "toy/99")
    assert missing.returncode == 2
    assert "no trial of toy fits '99'; `katuna trials toy` lists them" in missing.stderr


def test_a_job_names_what_it_left_and_in_place_writes_into_the_folder(here: Path) -> None:
    job = here / "job.yaml"
    job.write_text(yaml.safe_dump(pytorchjob("", container={"command": ["python", "program.py", "0.5"]})))
    done = command("train", "job.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it wrote            1.2 kB  work/out/model.bin" in done.stdout
    assert entries(here) == {"input.txt", "program.py"}
    (run,) = (path for path in (here / "runs").iterdir() if not path.name.startswith("."))
    assert "work/out/model.bin" in command("show").stdout
    again = command("train", "job.yaml", "--in-place")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "all processes write into this folder itself" in again.stdout
    assert entries(here) == {"out", "seen.txt", "program.py"}
    assert (here / "seen.txt").read_text() == "x"
    assert ways(run.with_name(f"{run.name}-2")) == {"shared"}


def test_a_dry_run_says_the_way_and_leaves_nothing(here: Path) -> None:
    (here / "job.yaml").write_text(yaml.safe_dump(pytorchjob("", container={"command": ["python", "program.py", "0.5"]})))
    assert "# files         what is written here goes to work/" in command("tune", str(search(here)), "--dry-run").stdout
    assert "what is written here goes to work/" in command("train", "job.yaml", "--dry-run").stdout
    shared = command("tune", "experiment.yaml", "--dry-run", "--shared-files").stdout
    assert "# files         all processes write into this folder itself" in shared
    assert entries(here) == {"input.txt", "program.py"}


def test_claims_and_the_trials_folder_are_real_and_data_is_only_read(here: Path) -> None:
    (here / "claimed").mkdir()
    (here / "data").mkdir()
    (here / "data" / "rows.csv").write_text("1\n")
    (here / "program.py").write_text(
        "import os, pathlib\n"
        "pathlib.Path('claimed/shared.txt').write_text('of the job')\n"
        "rows = pathlib.Path(os.environ['KATUNA_DATA'], 'rows.csv')\n"
        "print(f'rows={len(rows.read_text().splitlines())}')\n"
        "rows.write_text('changed')\n"
        "pathlib.Path(os.environ['KATUNA_TRIAL_DIR'], 'model.bin').write_text('model')\n"
    )
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "shared"}}
    mount = {"name": "v", "mountPath": "/claimed"}
    manifest = pytorchjob("", pod={"volumes": [volume]}, container={"command": ["python", "program.py"], "volumeMounts": [mount]})
    (here / "job.yaml").write_text(yaml.safe_dump(manifest))
    done = command("train", "job.yaml", "--claim", "shared=claimed", "--data", "data")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rows=1" in done.stdout
    assert (here / "claimed" / "shared.txt").read_text() == "of the job"
    assert (here / "data" / "rows.csv").read_text() == "1\n"
    (run,) = (path for path in (here / "runs").iterdir() if not path.name.startswith("."))
    assert (run / "model.bin").read_text() == "model"
    assert (run / "work" / "data" / "rows.csv").read_text() == "changed"


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder below /tmp that the run has nothing to do with."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="katuna-outside-") as folder:
        yield Path(folder)


def train(here: Path, *options: str, pod: dict[str, object] | None = None, **container: object) -> Path:
    """A job to its end; its run folder."""
    (here / "job.yaml").write_text(yaml.safe_dump(pytorchjob("", pod=pod or {}, container=container)))
    done = command("train", "job.yaml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (path for path in (here / "runs").iterdir() if (path / "job.yaml").exists())
    assert ways(run) == {"layer"}
    return run


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])  # noqa: S108
def test_inputs_below_tmp_that_a_command_names_are_seen_and_stay_as_they_are(here: Path, place: str) -> None:
    """By an argument, a variable, a link at the top of the folder, --data; a folder, a small file, a large one."""
    mark = f"katuna-named-{uuid4()}"
    with contextlib.ExitStack() as places:
        argument, variable, linked, data = (
            Path(places.enter_context(tempfile.TemporaryDirectory(dir=place, prefix=mark))) for _ in range(4)
        )
        for each in (argument, variable, linked, data):
            (each / "in.txt").write_text(each.name)
        small, large = Path(place, f"{mark}-small"), Path(place, f"{mark}-large")
        for file, size in ((small, 5), (large, 2 << 20)):
            places.callback(file.unlink)
            file.write_bytes(bytes(size))
        (here / "data").symlink_to(linked)
        (here / "program.py").write_text(
            "import os, sys, pathlib\n"
            "inputs = [pathlib.Path(place) for place in (sys.argv[1][6:], os.environ['PLACE'], 'data', os.environ['KATUNA_DATA'])]\n"
            "print('seen', *[(place / 'in.txt').read_text() for place in inputs])\n"
            "for place in inputs: (place / 'in.txt').write_text('mine')\n"
            "print('sizes', *[len(pathlib.Path(name).read_bytes()) for name in sys.argv[2:]])\n"
            "pathlib.Path(sys.argv[2]).write_text('mine')\n"
            f"print('rest', sorted(name for name in os.listdir({place!r}) if 'unnamed' in name))\n"
        )
        unnamed = Path(place, f"{mark}-unnamed")
        places.callback(unnamed.unlink)
        unnamed.touch()
        run = train(
            here,
            f"--data={data}",
            command=["python", "program.py", f"--out={argument}", str(small), str(large)],
            env=[{"name": "PLACE", "value": f"{variable}"}],
        )
        said = (run / "log").read_text()
        assert f"seen {argument.name} {variable.name} {linked.name} {data.name}" in said
        assert f"sizes 5 {2 << 20}\nrest []" in said
        assert [(each / "in.txt").read_text() for each in (argument, variable, linked, data)] == [
            *(argument.name, variable.name, linked.name, data.name)
        ]
        assert small.read_bytes() == bytes(5)


def test_a_trainer_reads_its_data_through_a_link_to_below_tmp(here: Path, outside: Path) -> None:
    rows = "".join(f"{size},{size % 7},{3 * size}\n" for size in range(40))
    (outside / "houses.csv").write_text(f"size,age,price\n{rows}")
    (here / "houses.csv").symlink_to(outside / "houses.csv")
    trainer = Path(__file__).parents[2] / "trainers" / "tabular.py"
    words = ["python", str(trainer), "--data=houses.csv", "--target=price", "--task=regression", "--epochs=1", "--device=cpu"]
    assert "epoch=1 " in (train(here, command=words) / "log").read_text()


def test_a_claim_right_below_tmp_is_real(here: Path, outside: Path) -> None:
    (here / "program.py").write_text("import sys; open(sys.argv[1] + '/out.txt', 'w').close()")
    train(
        here,
        f"--claim=shared={outside}",
        pod={"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "shared"}}]},
        command=["python", "program.py", "/claimed"],
        volumeMounts=[{"name": "v", "mountPath": "/claimed"}],
    )
    assert (outside / "out.txt").exists()


def test_a_trial_comes_upon_no_other_run_but_one_that_it_is_told_of(here: Path) -> None:
    for name in ("earlier", "other"):
        (here / "runs" / name).mkdir(parents=True)
        (here / "runs" / name / "model.pt").write_text(name)
    (here / "program.py").write_text(
        "import glob, os, pathlib, sys\n"
        "print('found', *sorted(glob.glob('**/*.pt', recursive=True)), pathlib.Path(sys.argv[2]).read_text())\n"
        "pathlib.Path(sys.argv[2]).write_text('mine')\n"
        "pathlib.Path('mine.pt').touch()\n"
        "print('accuracy=1')\n"
    )
    words = ["python", "program.py", "${trialParameters.lr}", "runs/earlier/model.pt"]
    done = command("tune", str(write_experiment(here, command=words, parallelTrialCount=1)))
    assert done.returncode == 0, done.stdout + done.stderr
    logs = {path.read_text().splitlines()[0] for path in (here / "runs" / "toy").glob("trials/*/log")}
    assert logs == {"found runs/earlier/model.pt earlier"}
    assert ways(here / "runs" / "toy") == {"layer"}
    assert (here / "runs" / "earlier" / "model.pt").read_text() == "earlier"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting a file system needs root and unshare")
def test_another_file_system_within_the_folder_is_still_seen(here: Path) -> None:
    (here / "disk").mkdir()
    (here / "program.py").write_text("print(f\"accuracy={len(open('disk/inside.bin').read())}\")")
    search(here)
    # No text, which would be among the kept code.
    mounted = 'mount -t tmpfs none disk && head -c 4 /dev/zero > disk/inside.bin && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, "sh", *KATUNA, "tune", "experiment.yaml"],  # noqa: S607
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy=4 in" in done.stdout


def test_downloads_in_the_cache_are_for_all(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (here / ".cache").mkdir()
    (here / "program.py").write_text("import pathlib; pathlib.Path.home().joinpath('.cache', 'download').touch()")
    run = train(here, command=["python", "program.py"])
    assert (here / ".cache" / "download").exists()
    assert not (run / "work" / ".cache" / "download").exists()


def test_sockets_below_tmp_that_programs_look_for_are_real(here: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {".X11-unix", "nvidia-mps"} == set(workspace.SOCKETS)
    monkeypatch.setattr(workspace, "SOCKETS", (outside.name,))
    hidden = f"'/t' + 'mp/{outside.name}/reached'"
    run = katuna.tune(write_experiment(here, f"open({hidden}, 'w').close(); print('accuracy=1')"))
    assert ways(run.path) == {"layer"}
    assert (outside / "reached").exists()


def test_a_mount_that_this_user_may_not_look_at_is_no_obstacle(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "mounted", lambda: [here / ("x" * 300)])
    assert workspace.forecast(LocalOptions(cwd=str(here))) == ("layer", "")


def test_a_search_goes_on_without_the_script_that_it_keeps(here: Path) -> None:
    interrupted(here, "import time, sys; lr = float(sys.argv[1]); print(f'accuracy={1 - lr:.6f}', flush=True); time.sleep(1)")
    (here / "program.py").unlink()
    done = command("resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 succeeded" in done.stdout


def interrupted(here: Path, program: str) -> None:
    """A search of which one trial at most has run."""
    (here / "program.py").write_text(program)
    planned = conduct.plan([search(here, parallelTrialCount=1)])
    asked = iter([0, 0, 0, *[1] * 100_000])
    assert conduct.start(planned, interruptions=lambda: next(asked)).search.ended is None


def test_a_project_that_was_moved_goes_on_once_there_is_a_link(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(here, "import time; print('accuracy=1', flush=True); time.sleep(1)")
    moved = here.with_name("moved")
    here.rename(moved)
    monkeypatch.chdir(moved)
    (moved / "program.py").write_text("print('accuracy=2')")
    refused = command("resume", "toy")
    assert refused.returncode == 2
    assert f"'{here}', the folder that the run was started in, is gone" in refused.stderr
    assert f"ln -s NEW {here}" in refused.stderr
    here.symlink_to(moved)
    done = command("resume", "toy")
    assert done.returncode == 0, done.stdout + done.stderr
    said = {line for log in (moved / "runs" / "toy").glob("trials/*/log") for line in log.read_text().splitlines()}
    assert {line for line in said if line.startswith("accuracy")} == {"accuracy=1"}


def test_the_folder_of_the_best_is_printed_byte_for_byte(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = here / os.fsdecode(b"b\xfd")
    place.mkdir()
    (place / "program.py").write_text("import sys; open('left', 'w').close(); print(f'accuracy={sys.argv[1]}')")
    monkeypatch.chdir(place)
    assert command("tune", str(search(place))).returncode == 0
    done = subprocess.run([*KATUNA, "best", "-o", "files"], capture_output=True, check=True)
    assert Path(os.fsdecode(done.stdout.removesuffix(b"\n")), "left").exists()


def test_a_job_that_goes_on_finds_its_files_as_it_left_them(here: Path) -> None:
    (here / "program.py").write_text(
        "import os, time\n"
        "places = ['checkpoint', '/tmp/checkpoint']\n"
        "seen = [os.path.exists(place) for place in places]\n"
        "for place in places: open(place, 'w').close()\n"
        "print('seen', *seen, flush=True)\n"
        "while not any(seen): time.sleep(1)\n"
    )
    (here / "job.yaml").write_text(yaml.safe_dump(pytorchjob("", container={"command": ["python", "program.py"]})))
    process = spawn("train", "job.yaml")
    await_line(here / "runs" / "toy" / "log", "seen False False")
    assert command("stop", "toy").returncode == 0
    process.communicate(timeout=30)
    done = command("resume", "toy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seen True True" in done.stdout
    assert not (here / "runs" / "toy" / ".own").exists()


def test_a_smoke_test_leaves_the_folder_as_it_was(here: Path) -> None:
    done = command("smoke", str(search(here)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert entries(here) == {"input.txt", "program.py"}


def test_what_is_kept_of_the_best_alone_are_their_files_too(here: Path) -> None:
    done = command("tune", str(search(here, parallelTrialCount=1)), "--keep", "best:1")
    assert done.returncode == 0, done.stderr
    assert len(list((here / "runs" / "toy" / "trials").glob("*/work"))) == 1


# Where there can be no layers


def mirrored(**more: object) -> RunOptions:
    return RunOptions(LocalOptions(cwd=str(Path.cwd()), files="mirrored", **more))  # type: ignore[arg-type]


def test_a_mirrored_trial_leaves_what_it_wrote_alone(here: Path) -> None:
    (here / "program.py").write_text(WRITES.replace("os.remove", "open"))
    run = katuna.tune(search(here), options=mirrored())
    assert len(run.search.trials) == 4
    assert ways(run.path) == {"mirrored"}
    assert entries(here) == {"input.txt", "program.py"}
    for trial in run.trials:
        work = run.folder.trial(trial.name) / "work"
        assert {str(path.relative_to(work)) for path in work.rglob("*")} == {"out", "out/model.bin", "seen.txt"}
        assert not (run.folder.trial(trial.name) / ".own").exists()


def test_a_large_file_that_a_mirrored_trial_changes_ends_the_search(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "SMALL_BYTES", 1000)
    monkeypatch.setattr(mirror, "_clone", lambda *_: False)
    (here / "large.bin").write_bytes(bytes(2000))
    (here / "program.py").write_text("open('large.bin', 'ab').write(b'x'); print('accuracy=1')")
    with pytest.raises(FilesMixed, match=r"has changed .*large\.bin, which is too large to be copied .*`katuna resume toy`"):
        katuna.tune(search(here, parallelTrialCount=1), options=mirrored())
    run = katuna.load("toy")
    assert [trial.value(run.search.objective) for trial in run.trials] == [None]


def test_a_folder_too_large_to_be_mirrored_is_shared_and_the_first_trial_runs_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MOST_ENTRIES", 1)
    (here / "program.py").write_text("open('snapshot.pt', 'w').close(); print('accuracy=1')")
    with pytest.raises(FilesMixed, match=r"wrote .*snapshot\.pt, where all trials write .*`katuna resume toy --parallel 1`"):
        katuna.tune(search(here, parallelTrialCount=4), options=mirrored())
    run = katuna.load("toy")
    assert ways(run.path) == {"shared"}
    assert len(run.trials) == 4
    assert [trial.state.value for trial in run.trials if trial.started_at] == ["Succeeded"]
    again = conduct.resume("toy", counts={"parallelTrialCount": 1})
    assert again.search.ended is not None
    assert len(again.trials) == 4


def test_trials_that_share_a_folder_and_write_nothing_there_run_at_a_time(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "MOST_ENTRIES", 1)
    (here / "program.py").write_text("print('accuracy=1')")
    run = katuna.tune(search(here), options=mirrored())
    assert run.search.ended is not None
    assert len(run.trials) == 4
