"""What a run tells of each container of its trials: the journal, `show RUN/TRIAL`, `logs RUN/TRIAL/REPLICA`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from searches import experiment_yaml, journal_events, katuna
from toy_jobs import pytorchjob


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# The Worker fails when the Master's guard is gone, and so its success known: a failure before that would be the job's.
MASTER_SUCCEEDS = """
import os, sys, time
from pathlib import Path
guard = Path("/dev/shm/guard")
if os.environ["RANK"] == "0":
    guard.with_suffix(".new").write_text(str(os.getppid()))
    guard.with_suffix(".new").rename(guard)
    print("accuracy=0.5")
    sys.exit()
while not guard.exists() or Path("/proc", guard.read_text()).exists():
    time.sleep(0.01)
print("lost")
sys.exit(1)
"""


def test_a_search_tells_of_every_replica_of_its_trials(tmp_path: Path) -> None:
    """The Master's success is the trial's, whatever a Worker does; what the Worker did is told all the same."""
    job = pytorchjob(MASTER_SUCCEEDS, "${trialParameters.lr}", workers=1)
    del job["metadata"]
    experiment = yaml.safe_load(experiment_yaml(maxTrialCount=1, parallelTrialCount=1))
    experiment["spec"]["trialTemplate"] |= {"trialSpec": job, "primaryContainerName": "pytorch"}
    (tmp_path / "ddp.yaml").write_text(yaml.safe_dump(experiment))
    done = katuna("tune", "ddp.yaml")
    assert done.returncode == 0, (done.stdout, done.stderr)
    shown = katuna("show", "toy/0").stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:4] for line in shown if line.startswith(("master-0 ", "worker-0 "))}
    assert rows == {"master-0": ["Completed", "0", "0"], "worker-0": ["Error", "1", "0"]}
    assert katuna("logs", "toy/0/worker-0").stdout == "lost\n"
    assert katuna("logs", "toy/0").stdout.splitlines() == ["master-0 | accuracy=0.5", "worker-0 | lost"]
    (run,) = (tmp_path / "runs").glob("toy")
    exits = {
        event["pod"].rpartition("-")[0].rpartition("-")[2]: event["code"]
        for event in journal_events(run)
        if event["event"] == "ContainerExited"
    }
    assert exits == {"master": 0, "worker": 1}
    assert "it has: master-0, worker-0" in katuna("logs", "toy/0/worker-7").stderr
