"""Whether every trial can be rendered: the template with values of the search space in it, before a search meets the one that cannot."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from katuna.errors import KATUNA, RenderRefused
from katuna.lint.experiment_rules import parameter_of, usable
from katuna.lint.job_rules import KINDS_HERE
from katuna.manifest.build import job_from_manifest
from katuna.manifest.diagnostic import NUL, NUL_MESSAGE, Path, Remark, path_text
from katuna.manifest.experiment import Manifest, TrialTemplate
from katuna.manifest.fields import UNREAD, examine, kinds
from katuna.manifest.render import METADATA_REFERENCE, render_template
from katuna.manifest.template import TEMPLATE

MAX_RENDERED_CHOICES = 100

_HARMLESS = re.compile(r"[\w.+-]*\Z", re.ASCII)


def check_rendering(
    template: TrialTemplate, defaulted: Manifest, config_maps: Sequence[Manifest], pass_env: Collection[str], runs_here: bool
) -> Iterator[Remark]:
    """Renders a point, and each choice that could break the job's text. `runs_here` says that nothing is known yet that keeps the
    job from running here."""
    parameters = defaulted["spec"].get("parameters", [])
    if not parameters or not all(map(usable, parameters)):
        return
    metadata = defaulted.get("metadata", {})
    for path, point in _points(template, parameters)[:MAX_RENDERED_CHOICES]:
        try:
            manifest = render_template(
                template, f"{metadata.get('name', '')}-bbbbbbbb", metadata.get("namespace", "default"), point
            )
        except RenderRefused as refused:
            where = path if path != TEMPLATE else next(_bad_references(template, refused), TEMPLATE)
            yield Remark(where, f"{refused}: no trial would ever start", code="never-renders")
            continue
        if runs_here:
            remarks = list(_check_job(manifest, template, config_maps, pass_env))
            yield from (replace(remark, path=path) for remark in remarks)
            if remarks and template.is_yaml:
                return


def _points(template: TrialTemplate, parameters: Sequence[Mapping[str, Any]]) -> list[tuple[Path, dict[str, str]]]:
    """Assignments to try, each with the place of what is special in it."""
    known = [parameter_of(each) for each in parameters]
    base = {each.name: each.text(each.bounds[0]) if each.is_numeric and not each.step else each.on_grid(0) for each in known}
    points: list[tuple[Path, dict[str, str]]] = [(TEMPLATE, base)]
    for index, parameter in enumerate(known):
        for number, choice in enumerate(parameter.choices):
            if NUL not in choice and (template.is_yaml or not _HARMLESS.match(choice)):
                where: Path = ("spec", "parameters", index, "feasibleSpace", "list", number)
                points.append((where, {**base, parameter.name: choice}))
    return points


def _check_job(
    manifest: Manifest, template: TrialTemplate, config_maps: Sequence[Manifest], pass_env: Collection[str]
) -> Iterator[Remark]:
    """The rendered job: of the shape that its kind has, and one that can be started here."""
    kind = (manifest.get("apiVersion", ""), manifest.get("kind", ""))
    retyped = list(_retyped(manifest)) if template.is_yaml and kind in kinds() else []
    yield from retyped
    if retyped or kind not in KINDS_HERE:
        return
    try:
        job = job_from_manifest(manifest, template.primary_container, config_maps, pass_env=pass_env)
    except RenderRefused as refused:
        yield Remark((), f"{refused}: no trial would ever start", on=KATUNA, code="never-starts")
        return
    for container in (replica.container for replica in job.replicas):
        # A template may make a NUL of a choice's harmless backslash and zero.
        if any(NUL in text for text in (*container.command, *container.args, container.working_dir)):
            yield Remark((), f"the command that this value makes {NUL_MESSAGE}: no trial would ever start", code="nul")


def _retyped(manifest: Manifest) -> Iterator[Remark]:
    """In a YAML template an unquoted placeholder becomes what its value looks like: a number where the job wants text. Katib's
    admission, which puts text there, does not see it."""
    for remark in examine(manifest, reader=UNREAD).remarks:
        if remark.level == "error" and remark.code == "wrong-type":
            message = f"the rendered job is wrong at {path_text(remark.path)}: {remark.message}: no trial would ever start"
            yield Remark((), message, "write the placeholder in quotes in the template", code="retyped-value")


def _bad_references(template: TrialTemplate, refused: RenderRefused) -> Iterator[Path]:
    """The trialParameter that a render error speaks of, when it is one about a metadata reference."""
    for index, parameter in enumerate(template.parameters):
        if METADATA_REFERENCE.search(parameter.reference) and parameter.reference in str(refused):
            yield (*TEMPLATE, "trialParameters", index, "reference")
