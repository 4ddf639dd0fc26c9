"""The promises of a MetricSource, as tests: mix into a class that has the methods below."""

from __future__ import annotations

import time

from katuna.metric_line import Report, number
from katuna.metrics.collect import MetricSource

PATIENCE_S = 30.0
"""Far beyond what anything here takes, for a loaded machine."""
AT_ONCE = 10_000
"""Reports of one `read`, at most."""


class MetricSourceContract:
    keeps_all = True
    """Whether values that came between two looks are all found; a page of metrics shows the latest ones only."""
    any_name = False
    """Whether it reports metrics that nobody asked for."""

    def make_source(self) -> MetricSource:
        """One that looks for the metrics `accuracy`, the objective, and `loss`, in a place where nothing is yet."""
        raise NotImplementedError

    def write(self, metric: str, value: str) -> None:
        """The trial reports a value there, as trials of this collector do."""
        raise NotImplementedError

    def write_half(self) -> None:
        """The trial is killed in the middle of a report of accuracy=0.99."""
        raise NotImplementedError

    # What the tests below are made of

    def read_until(self, source: MetricSource, metric: str, value: str) -> list[Report]:
        """All reports to the first one that has the value."""
        found: list[Report] = []
        give_up = time.monotonic() + PATIENCE_S
        while not any(report.metric == metric and float(report.value) == float(value) for report in found):
            assert time.monotonic() < give_up, found
            found += source.read()
            time.sleep(0.01)
        return found

    @staticmethod
    def rest(source: MetricSource) -> list[Report]:
        found = source.read()
        while not source.at_end:
            found += source.read()
        found += source.finish()
        source.close()
        return found

    @staticmethod
    def values(reports: list[Report], metric: str = "accuracy") -> list[float]:
        return [round(float(report.value), 6) for report in reports if report.metric == metric]

    # The promises

    def test_nothing_is_no_report_and_is_told(self) -> None:
        source = self.make_source()
        assert source.read() == []
        assert source.at_end
        assert self.rest(source) == []
        assert len(source.nearest) <= 3
        assert source.warnings == ()

    def test_values_come_in_order_and_once(self) -> None:
        source = self.make_source()
        found: list[Report] = []
        for value in ("0.25", "0.5", "0.75"):
            self.write("accuracy", value)
            found += self.read_until(source, "accuracy", value)
        assert self.values(found + self.rest(source)) == [0.25, 0.5, 0.75]
        assert source.nearest == ()

    def test_both_metrics_are_found(self) -> None:
        source = self.make_source()
        self.write("accuracy", "0.5")
        found = self.read_until(source, "accuracy", "0.5")
        self.write("loss", "2.5")
        found += self.read_until(source, "loss", "2.5")
        found += self.rest(source)
        assert (self.values(found), self.values(found, "loss")) == ([0.5], [2.5])

    def test_other_metrics_are_left_out(self) -> None:
        source = self.make_source()
        self.write("recall", "0.125")
        self.write("accuracy", "0.5")
        found = self.read_until(source, "accuracy", "0.5") + self.rest(source)
        assert ("recall" in {report.metric for report in found}) is self.any_name

    def test_what_is_no_number_never_comes_out(self) -> None:
        source = self.make_source()
        self.write("loss", "nan")
        self.write("accuracy", "0.5")
        found = self.read_until(source, "accuracy", "0.5") + self.rest(source)
        assert all(number(report.value) is not None or report.value.lower().lstrip("+-") in ("nan", "inf") for report in found)

    def test_half_a_report_is_none(self) -> None:
        source = self.make_source()
        self.write("accuracy", "0.5")
        found = self.read_until(source, "accuracy", "0.5")
        self.write_half()
        assert 0.99 not in self.values(found + self.rest(source))

    def test_a_flood_comes_in_rounds(self) -> None:
        if not self.keeps_all:
            return
        source = self.make_source()
        for step in range(3000):
            self.write("accuracy", str(step / 10_000))
        found: list[Report] = []
        give_up = time.monotonic() + PATIENCE_S
        while not (found and source.at_end):
            assert time.monotonic() < give_up
            some = source.read()
            assert len(some) <= AT_ONCE
            found += some
        found += self.rest(source)
        if self.any_name:
            assert self.values(found)[-1] == 0.2999
        else:
            assert self.values(found) == [step / 10_000 for step in range(3000)]

    def test_to_hurry_takes_in_what_there_is(self) -> None:
        source = self.make_source()
        self.write("accuracy", "0.25")
        found = self.read_until(source, "accuracy", "0.25")
        self.write("accuracy", "0.5")
        source.hurry()
        found += self.read_until(source, "accuracy", "0.5")
        assert self.values(found + self.rest(source)) == [0.25, 0.5]

    def test_close_may_be_called_again(self) -> None:
        source = self.make_source()
        source.close()
        source.close()
