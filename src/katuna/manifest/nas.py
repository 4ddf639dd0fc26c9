"""`nasConfig`, the search space of enas and darts (katib.md 1.6, 3.2.10, 3.2.11): checked in full, though neither runs here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from katuna.errors import KATIB
from katuna.manifest.diagnostic import Path, Remark
from katuna.manifest.experiment import Parameter
from katuna.manifest.settings import Check, one_of, or_none, real, whole

NAS: Path = ("spec", "nasConfig")

_SHARE = real(0, 1, with_most=True)
_POSITIVE = real(0)

ENAS_SETTINGS: Mapping[str, Check] = {
    "controller_hidden_size": whole(1),
    "controller_temperature": or_none(_POSITIVE),
    "controller_tanh_const": or_none(_POSITIVE),
    "controller_entropy_weight": or_none(_POSITIVE),
    "controller_baseline_decay": _SHARE,
    "controller_learning_rate": _SHARE,
    "controller_skip_target": _SHARE,
    "controller_skip_weight": or_none(_POSITIVE),
    "controller_train_steps": whole(1),
    "controller_log_every_steps": whole(1),
}

_NOT_NEGATIVE = real(0, with_least=True)

DARTS_SETTINGS: Mapping[str, Check] = {
    "num_epochs": whole(1),
    **dict.fromkeys(("w_lr", "w_lr_min", "w_momentum", "w_weight_decay", "w_grad_clip"), _NOT_NEGATIVE),
    **dict.fromkeys(("alpha_lr", "alpha_weight_decay"), _NOT_NEGATIVE),
    "batch_size": or_none(whole(1)),
    "num_workers": whole(0),
    **dict.fromkeys(("init_channels", "print_step", "num_nodes", "stem_multiplier"), whole(1)),
}


def enas_rule(parameters: Sequence[Parameter], spec: Mapping[str, Any]) -> Iterator[Remark]:  # noqa: ARG001
    config = spec.get("nasConfig")
    if config is None:
        yield Remark(NAS, "must be specified for enas", "graphConfig and operations", code="missing-field")
        return
    graph = config.get("graphConfig", {})
    for name, example in (("numLayers", "8"), ("inputSizes", "[32, 32, 3]"), ("outputSizes", "[10]")):
        if not graph.get(name):
            yield Remark((*NAS, "graphConfig", name), "must be specified for enas", f"{name}: {example}", code="missing-field")
    yield from _check_operations(config)


def darts_rule(parameters: Sequence[Parameter], spec: Mapping[str, Any]) -> Iterator[Remark]:  # noqa: ARG001
    """Katib's service answers one call only: whatever the first batch leaves over never comes."""
    config = spec.get("nasConfig")
    if config is None:
        message = "darts searches a nasConfig: without one Katib accepts it and no trial ever starts"
        yield Remark(NAS, message, "graphConfig and operations", code="never-starts")
        return
    yield from _check_operations(config)
    most, parallel = spec.get("maxTrialCount"), spec.get("parallelTrialCount")
    if most is None or (parallel is not None and most > parallel):
        message = f"Katib's darts gives one batch of {parallel} trials and nothing after it"
        hint = f"maxTrialCount: {parallel}"
        yield Remark(("spec", "maxTrialCount"), message, hint, "warning", KATIB, code="darts-second-batch")


def nas_unused(algorithm: str, spec: Mapping[str, Any]) -> Iterator[Remark]:
    """What a `nasConfig` beside any other algorithm comes to: Katib accepts it, and then never starts a trial."""
    if spec.get("nasConfig") is not None:
        message = f"{algorithm} searches spec.parameters: with a nasConfig Katib accepts it and no trial ever starts"
        yield Remark(NAS, message, "enas and darts search a nasConfig", at_key=True, code="never-starts")


def _check_operations(config: Mapping[str, Any]) -> Iterator[Remark]:
    for index, operation in enumerate(config.get("operations", [])):
        path = (*NAS, "operations", index)
        if not operation.get("operationType"):
            yield Remark((*path, "operationType"), "must be specified", "e.g. convolution", code="missing-field")
        parameters = operation.get("parameters", [])
        if not parameters:
            yield Remark((*path, "parameters"), "must be specified: an operation has at least one", code="missing-field")
        for number, parameter in enumerate(parameters):
            yield from _check_parameter(parameter, (*path, "parameters", number))


_TYPE = one_of("double", "int", "discrete", "categorical")


def _check_parameter(parameter: Mapping[str, Any], path: Path) -> Iterator[Remark]:
    kind, space, where = parameter.get("parameterType", ""), parameter.get("feasibleSpace", {}), (*path, "feasibleSpace")
    if not parameter.get("name"):
        yield Remark((*path, "name"), "must be specified", code="missing-field")
    if _TYPE(kind):
        yield Remark((*path, "parameterType"), _TYPE(kind), code="unknown-value")
    elif kind in ("categorical", "discrete"):
        if not space.get("list"):
            yield Remark(
                (*where, "list"), "an empty feasible space: the list has no values", 'list: ["3", "5"]', code="empty-space"
            )
    elif not space.get("min") and not space.get("max"):
        yield Remark(where, f"min and max must be specified for a {kind}", 'as text in quotes: "2"', code="missing-field")
    elif kind == "double" and _POSITIVE(space.get("step", "")):
        yield Remark(
            (*where, "step"), f"a double in a nasConfig needs a step, which {_POSITIVE(space.get('step', ''))}", code="bad-step"
        )
