"""A run whose jobs run on a cluster: the objects that are sent, the reasons why some cannot be, and the launcher."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from katuna.clock import SystemClock
from katuna.errors import ClusterRefused, ClusterUnreachable, InputRefused
from katuna.launch.plan import log_of
from katuna.manifest.experiment import Experiment, Manifest
from katuna.manifest.render import parse_template
from katuna.runs.code import Code, content
from katuna.runs.measured import measured
from katuna.runs.plan import Plan
from katuna.runs.run import Run
from katuna.runs.rundir import RunDir
from katuna.search.contracts import Launcher, TrialRequest

if TYPE_CHECKING:
    from katuna.cluster.api import Api
    from katuna.cluster.code import Packed
    from katuna.cluster.launcher import ClusterLauncher

OPERATORS = {"PyTorchJob": "the Training Operator", "TrainJob": "Kubeflow Trainer v2", "Job": "a newer Kubernetes"}
READ_FROM_A_LOG = ("StdOut", "AnyName")


def run_label(folder: RunDir) -> str:
    """What marks a run's objects: its name, and a digest of how its journal begins, so that no other run has the same."""
    with folder.journal.open("rb") as journal:
        return f"{folder.name[:40].rstrip('-.')}-{hashlib.sha256(journal.readline()).hexdigest()[:12]}"


def problems(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Why the Experiment's trials cannot be followed on a cluster, as (message, hint)."""
    if experiment.collector.kind not in READ_FROM_A_LOG:
        yield (
            f"spec.metricsCollectorSpec.collector.kind: {experiment.collector.kind}: on a cluster metrics are read from the log of the pod",
            "print the metrics as name=value and take StdOut, or run it on this machine",
        )


class OnCluster:
    """`folder` and `code` are the run's. Without a folder nothing can be sent, but what would be can be asked, of a code that was just
    collected."""

    def __init__(self, planned: Plan, folder: RunDir | None = None, code: Code | None = None) -> None:
        assert planned.options.cluster is not None, "only for a run on a cluster"
        self._planned = planned
        self._options = planned.options.cluster
        self._folder = folder
        self._code = code

    @cached_property
    def api(self) -> Api:
        from katuna.cluster.api import Api

        said = self._planned.experiment.manifest["metadata"].get("namespace")
        return Api.of_config(self._options.context or None, self._options.namespace or said or None)

    @cached_property
    def packed(self) -> Packed | None:
        """The code as it is sent; None where the image holds it."""
        from katuna.cluster.code import PackedFile, pack

        if self._options.code == "none" or self._code is None:
            return None
        folder, held = self._folder, self._code.contents
        return pack(
            PackedFile(number, each.path, each.mode, held[each.sha256] if folder is None else content(folder, each))
            for number, root in enumerate(self._code.roots)
            for each in root.files
        )

    def prepare(self, manifest: Manifest) -> Manifest:
        """The job with the code in it."""
        from katuna.cluster.code import with_code

        if self.packed is None:
            return manifest
        return with_code(manifest, self.packed, dict(self._mounts()), self._label)

    @property
    def _label(self) -> str:
        return "RUN" if self._folder is None else run_label(self._folder)

    def sent(self, jobs: Sequence[Manifest]) -> list[Manifest]:
        """All that is sent for these jobs, as the API server gets it: the code first. `RUN` stands for the label of a run that is not
        there yet."""
        from katuna.cluster.code import config_maps
        from katuna.cluster.objects import labelled

        namespace = self.api.namespace
        maps = [] if self.packed is None else config_maps(self.packed, namespace, self._label)
        return [*maps, *(self.prepare(labelled(job, namespace, self._label, self._options.queue)) for job in jobs)]

    def _mounts(self) -> Iterator[tuple[str, str]]:
        """Of each --map: the image's path, and where it is in the code."""
        local = self._planned.options.local
        assert self._code is not None
        for source, target in local.maps:
            real = local.here(target).resolve()
            for number, root in enumerate(self._code.roots):
                if real.is_relative_to(root.path):
                    below = real.relative_to(root.path)
                    yield os.path.normpath(source), str(number) if below == Path() else f"{number}/{below}"
                    break

    def send_code(self) -> None:
        """Has the code on the cluster. Raises InputRefused where the API server takes none."""
        from katuna.cluster.code import config_maps

        if self.packed is None or self._folder is None:
            return
        for each in config_maps(self.packed, self.api.namespace, self._label):
            try:
                self.api.create("ConfigMap", each)
            except ClusterRefused as refused:
                if refused.reason != "AlreadyExists":
                    raise InputRefused(f"the code cannot be sent as a ConfigMap: {refused}") from refused

    @property
    def _kind(self) -> str:
        template = self._planned.experiment.template
        return str(parse_template(template.text, template.is_yaml)["kind"])

    def clean(self, *, jobs: bool) -> int:
        """Removes the run's code from the cluster, and with `jobs` its jobs; how many objects there were."""
        from katuna.cluster.objects import RUN_LABEL

        assert self._folder is not None, "of a run that has a folder"
        selector = f"{RUN_LABEL}={run_label(self._folder)}"
        return sum(self.api.delete_all(each, selector) for each in ((self._kind, "ConfigMap") if jobs else ("ConfigMap",)))

    def launcher(self, trial_dir: Callable[[str], Path]) -> ClusterLauncher:
        from katuna.cluster.launcher import ClusterLauncher

        assert self._folder is not None, "a run that is started has a folder"
        experiment = self._planned.experiment
        return ClusterLauncher(
            self.api,
            run_label(self._folder),
            experiment.template.primary_container,
            lambda job, trial, replica, container: log_of(trial_dir(trial), job, replica, container),
            SystemClock(),
            kind=self._kind,
            prepare=self.prepare,
            beside=self._planned.loaded.references,
            keeps_jobs=experiment.is_training,
            local_queue=self._options.queue,
        )

    def preflight(self, requests: Sequence[TrialRequest]) -> Iterator[tuple[str, str]]:
        """Why these trials would not start there, as (message, hint): asked of the API server, which makes nothing of them."""
        from katuna.cluster.objects import labelled

        yield from problems(self._planned.experiment)
        try:
            for request in requests:
                kind = request.manifest["kind"]
                if kind not in OPERATORS:
                    yield f"trialSpec.kind: {kind} is not followed on a cluster", f"write a {', '.join(OPERATORS)}"
                    continue
                sent = labelled(request.manifest, self.api.namespace, "dry-run", self._options.queue)
                try:
                    self.api.create(str(sent["kind"]), sent, dry_run=True)
                except ClusterRefused as refused:
                    if refused.status == 404:
                        yield (
                            f"the cluster knows no {sent['kind']}",
                            f"install {OPERATORS[sent['kind']]} there, or write a batch/v1 Job",
                        )
                    elif refused.reason != "AlreadyExists":
                        yield f"the cluster refuses {sent['kind']} {sent['metadata']['name']}: {refused}", ""
            self.api.list("Pod", "katuna/run=none")
        except ClusterRefused as refused:
            yield f"katuna may not follow pods there: {refused}", "docs/cluster.md has the Role that it needs"
        except ClusterUnreachable as error:
            yield str(error), "is the cluster up, and is KUBECONFIG its file?"


def started_there(run: Run) -> Launcher:
    """The launcher of a run whose jobs a cluster runs; the cluster has the code from then on. Raises InputRefused."""
    there = OnCluster(run.plan, run.folder, run.code)
    there.send_code()
    return measured(there.launcher(run.folder.trial), run.plan.experiment, run.folder.trial, SystemClock())


def leave(run: Run, *, jobs: bool) -> int:
    """Removes the run's code, and with `jobs` its jobs, from the cluster where they ran; how many objects there were. Raises
    ClusterRefused, ClusterUnreachable, and InputRefused where no cluster is known any more."""
    return OnCluster(run.plan, run.folder).clean(jobs=jobs) if run.options.cluster else 0
