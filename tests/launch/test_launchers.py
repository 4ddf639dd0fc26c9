"""The launcher of this machine and the fake one keep the same promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from launch_jobs import ALauncher, WallClock, a_launcher, a_request

from contracts.launcher_contract import Behaviour, LauncherContract
from fakes import FakeLauncher, Script, VirtualClock
from katuna.metric_line import Report
from katuna.search.contracts import Clock, Launcher, TrialRequest


class TestLocalLauncher(LauncherContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = tmp_path
        self.launchers: list[ALauncher] = []
        yield
        for launcher in self.launchers:
            launcher.close(0)

    def make_launcher(self) -> Launcher:
        self.launchers.append(a_launcher(self.folder))
        return self.launchers[-1]

    def make_clock(self) -> Clock:
        return WallClock()

    def request(self, number: int, behaviour: Behaviour) -> TrialRequest:
        if behaviour.code is None:
            return a_request(number, "no-such-command")
        retries = {"backoffLimit": 1} if behaviour.then else {}
        return a_request(number, "sh", "-c", self.script(number, behaviour), **retries)

    def script(self, number: int, behaviour: Behaviour) -> str:
        lines = ["trap '' TERM"] if behaviour.ignores_term else []
        if behaviour.then:
            again = self.folder / f"again-{number}"
            lines += [f"if [ -e {again} ]; then", self.script(number, behaviour.then), f"fi; touch {again}"]
        if behaviour.prints:
            lines.append(f"echo '{behaviour.prints}'")
        for value in behaviour.values:
            lines += [f"sleep {behaviour.pause_s}", f"echo accuracy={value}"]
        lines += [f"yes accuracy=0.5 | head -n {behaviour.flood}"] if behaviour.flood else []
        lines += ["while true; do sleep 100; done"] if behaviour.hangs else [f"exit {behaviour.code}"]
        return "\n".join(lines)


class TestFakeLauncher(LauncherContract):
    @pytest.fixture(autouse=True)
    def _clock(self) -> None:
        self.clock = VirtualClock()
        self.behaviours: dict[int, Behaviour] = {}

    def make_launcher(self) -> Launcher:
        return FakeLauncher(self.clock, lambda request: self.script(self.behaviours[request.number]))

    def make_clock(self) -> Clock:
        return self.clock

    def request(self, number: int, behaviour: Behaviour) -> TrialRequest:
        self.behaviours[number] = behaviour
        return a_request(number, "true")

    def script(self, behaviour: Behaviour) -> Script:
        return Script(
            steps=(
                *((behaviour.pause_s + 0.01, (Report("accuracy", value),)) for value in behaviour.values),
                *[(0.0, (Report("accuracy", "0.5"),) * 1000)] * (behaviour.flood // 1000),
            ),
            code=behaviour.code,
            hangs=behaviour.hangs,
            ignores_term=behaviour.ignores_term,
            then=self.script(behaviour.then) if behaviour.then else None,
            nearest=(behaviour.prints,) if behaviour.prints else (),
        )
