"""The promises of a Starter, as tests: mix into a class that has `make_starter`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_jobs import until
from starts import Bench, alive

from katuna.launch.process import Starter

WAITS = """
import sys, time
print("runs", flush=True)
while True:
    time.sleep(0.05)
"""
IGNORES = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITS


class StarterContract:
    def make_starter(self) -> Starter:
        """A fresh one that has started nothing."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _bench(self, tmp_path: Path) -> Iterator[None]:
        self.bench = Bench(self.make_starter(), tmp_path)
        yield
        self.bench.starter.close()

    # The promises

    def test_a_process_starts_says_so_and_ends_with_its_code(self) -> None:
        trial = self.bench.run("python", self.bench.script("import sys\nprint('done')\nsys.exit(7)"))
        assert list(trial.said) == ["started", "exited"]
        assert trial.end == (7, 0)
        assert trial.text == "done\n"
        assert trial.process.how["start"] in ("cold", "warm")

    def test_it_has_its_words_folder_and_variables_and_no_others(self) -> None:
        text = "import os, sys\nprint(sys.argv[1:], os.getcwd(), os.environ['MINE'], 'KATUNA_OF_THE_TEST' in os.environ)"
        self.bench.script(text, "sub/program.py")
        os.environ["KATUNA_OF_THE_TEST"] = "1"
        try:
            trial = self.bench.run("python", "program.py", "a b", "--c=ñ", cwd="sub", env={"MINE": "x=y"})
        finally:
            del os.environ["KATUNA_OF_THE_TEST"]
        assert trial.text == f"['a b', '--c=ñ'] {self.bench.folder}/sub x=y False\n"

    def test_both_streams_go_to_the_log_in_order_behind_what_is_there(self) -> None:
        text = "import sys\nfor n in range(3):\n    print(n, flush=True)\n    print('e', n, file=sys.stderr, flush=True)"
        assert self.bench.run("python", self.bench.script(text)).text == "0\ne 0\n1\ne 1\n2\ne 2\n"

    def test_processes_side_by_side_are_apart(self) -> None:
        script = self.bench.script("import sys, os\nos.environ['MARK'] = sys.argv[1]\nprint(sys.argv[1])")
        trials = [self.bench.begin("python", script, str(number)) for number in range(3)]
        assert [trial.listen().text for trial in trials] == ["0\n", "1\n", "2\n"]
        assert len({trial.pid for trial in trials}) == 3

    def test_a_stop_asks_first(self) -> None:
        trial = self.bench.begin("python", self.bench.script(WAITS)).listen("started")
        assert until(lambda: trial.text == "runs\n")
        trial.process.stop(30.0)
        assert trial.listen().end == (143, signal.SIGTERM)

    def test_a_stop_insists_after_the_grace_period(self) -> None:
        trial = self.bench.begin("python", self.bench.script(IGNORES)).listen("started")
        assert until(lambda: trial.text == "runs\n")
        trial.process.stop(3600.0)
        trial.process.stop(0.2)
        assert trial.listen().end == (137, signal.SIGKILL)

    def test_a_deadline_ends_it(self) -> None:
        trial = self.bench.run("python", self.bench.script(WAITS), deadline_s=1.0)
        assert trial.said["exited"]["cause"] == "deadline"

    def test_what_it_leaves_behind_is_ended(self) -> None:
        text = "import os, time\npid = os.fork()\nif pid == 0:\n    os.setsid()\n    time.sleep(600)\nprint(pid)"
        trial = self.bench.run("python", self.bench.script(text))
        assert trial.said["exited"]["left"] == 1
        assert until(lambda: not alive(int(trial.text)))

    def test_kill_ends_it_and_its_guard_at_once(self) -> None:
        trial = self.bench.begin("python", self.bench.script(IGNORES)).listen("started")
        guard = trial.process.guard_pid
        trial.process.kill()
        assert until(lambda: not alive(trial.pid) and not alive(guard))

    def test_a_command_that_is_not_there_is_said(self) -> None:
        trial = self.bench.run("no-such-command")
        assert list(trial.said) == ["failed"]

    def test_close_lets_go_of_nothing_that_runs(self) -> None:
        trial = self.bench.begin("python", self.bench.script(WAITS)).listen("started")
        self.bench.starter.close()
        self.bench.starter.close()
        assert alive(trial.pid)
        trial.process.stop(0.0)
        trial.listen()

    def test_another_programs_interpreter_is_its_own(self) -> None:
        trial = self.bench.run(sys.executable, "-c", "import sys; print(sys.executable)")
        assert trial.text == f"{sys.executable}\n"
