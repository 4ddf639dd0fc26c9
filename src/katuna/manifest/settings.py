"""The settings that each algorithm and each early stopping takes, checked as Katib's services check them (katib.md 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from katuna.errors import KATIB
from katuna.manifest.diagnostic import Path, Remark, hint_of, listed, shown

Check = Callable[[str], str]
"""From a setting's value text to the rule that it breaks, "" for a good value."""

SETTINGS: Path = ("spec", "algorithm", "algorithmSettings")


def whole(least: int, most: int | None = None) -> Check:
    def check(text: str) -> str:
        try:
            value = int(text)
        except ValueError:
            return "must be a whole number as text"
        if value < least or (most is not None and value > most):
            return f"must be at least {least}" if most is None else f"must be from {least} to {most}"
        return ""

    return check


def real(above: float, below: float = math.inf, *, with_least: bool = False, with_most: bool = False) -> Check:
    """A number between the two limits; `with_least` and `with_most` allow the limits themselves. NaN is never between."""

    def check(text: str) -> str:
        try:
            value = float(text)
        except ValueError:
            return "must be a number as text"
        if above < value < below or (with_least and value == above) or (with_most and value == below):
            return ""
        if above == -math.inf:
            return "must be a finite number"
        low = f"at least {above:g}" if with_least else f"greater than {above:g}"
        high = f"at most {below:g}" if with_most else f"less than {below:g}"
        return f"must be {low}" + ("" if below == math.inf else f" and {high}")

    return check


def one_of(*words: str) -> Check:
    return lambda text: "" if text in words else f"must be one of {listed(words)}"


def anything(text: str) -> str:  # noqa: ARG001
    return ""


NUMBER = real(-math.inf)
SEED = whole(0, 2**32 - 1)
RANDOM_STATE = {"random_state": SEED}
_GO_SEED = whole(-(2**63), 2**63 - 1)


def _eta(text: str) -> str:
    """hyperband cuts eta to a whole number for its check, and then calculates with the number as written; 0 and less stand for 3."""
    problem = NUMBER(text)
    return problem or ("must be 2 or more" if 0 < float(text) < 2 else "")


HYPERBAND: Mapping[str, Check] = {
    "r_l": real(0),
    "resource_name": anything,
    "eta": _eta,
    **RANDOM_STATE,
}
SKOPT: Mapping[str, Check] = {
    "base_estimator": one_of("GP", "RF", "ET", "GBRT"),
    "n_initial_points": whole(0),
    "acq_func": one_of("gp_hedge", "LCB", "EI", "PI", "EIps", "PIps"),
    "acq_optimizer": one_of("auto", "sampling", "lbfgs"),
    **RANDOM_STATE,
}
PBT: Mapping[str, Check] = {
    "suggestion_trial_dir": anything,
    "n_population": whole(5),
    "truncation_threshold": real(0, 1, with_least=True, with_most=True),
    "resample_probability": real(0, 1, with_least=True, with_most=True),
    **RANDOM_STATE,
}
HYPEROPT: Mapping[str, Check] = {"gamma": real(0, 1), "prior_weight": real(0), "n_EI_candidates": whole(1), **RANDOM_STATE}
MULTIVARIATE: Mapping[str, Check] = {"n_startup_trials": whole(0), "n_ei_candidates": whole(0), **RANDOM_STATE}
GOPTUNA: Mapping[str, Check] = {
    "random_state": _GO_SEED,
    "sigma": NUMBER,
    "restart_strategy": one_of("none", "ipop", "bipop"),
}
_CONTROLLER = ("hidden_size", "temperature", "tanh_const", "entropy_weight", "baseline_decay", "learning_rate", "skip_target")
ENAS = {f"controller_{name}": anything for name in (*_CONTROLLER, "skip_weight", "train_steps", "log_every_steps")}
_WEIGHTS = ("w_lr", "w_lr_min", "w_momentum", "w_weight_decay", "w_grad_clip", "alpha_lr", "alpha_weight_decay")
_CELLS = ("batch_size", "num_workers", "init_channels", "print_step", "num_nodes", "stem_multiplier")
DARTS: Mapping[str, Check] = {"num_epochs": whole(1), **dict.fromkeys((*_WEIGHTS, *_CELLS), anything)}

MEDIAN_STOP: Mapping[str, Check] = {"min_trials_required": whole(1), "start_step": whole(1)}
EARLY_STOPPING: Mapping[str, Mapping[str, Check]] = {"medianstop": MEDIAN_STOP}


def settings_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts of an Experiment's `algorithmSettings`. The last of two settings with one name counts, as in Katib's services."""
    written = (spec.get("algorithm") or {}).get("algorithmSettings", [])
    return {each.get("name", ""): each.get("value", "") for each in written}


def setting_path(spec: Mapping[str, Any], name: str) -> Path:
    """The path of a setting's value."""
    written = spec["algorithm"].get("algorithmSettings", [])
    places = [index for index, each in enumerate(written) if each.get("name", "") == name]
    return (*SETTINGS, places[-1], "value") if places else SETTINGS


def check_settings(
    settings: Sequence[Mapping[str, str]],
    checks: Mapping[str, Check],
    owner: str,
    path: Path,
    *,
    required: Sequence[str] = (),
    lenient: bool = False,
    ignored_by_katib: Sequence[str] = (),
) -> Iterator[Remark]:
    """Remarks on `algorithmSettings` at `path`, against the settings that `owner` takes. A `lenient` owner ignores names that it does not know."""
    for index, setting in enumerate(settings):
        name, value = setting.get("name", ""), setting.get("value", "")
        if name not in checks:
            hint = hint_of(name, checks, f"settings: {listed(checks)}" if checks else "it has none")
            message = f"{owner} has no setting {shown(name)}"
            if lenient:
                yield Remark((*path, index, "name"), f"{message} and ignores it", hint, "warning", code="setting-ignored")
            else:
                yield Remark((*path, index, "name"), message, hint, code="unknown-setting")
            continue
        problem = checks[name](value)
        if problem:
            yield Remark((*path, index, "value"), f"{name} {problem}, not {shown(value)}", code="bad-setting")
        if name in ignored_by_katib:
            yield Remark((*path, index, "name"), f"Katib's {owner} ignores {name}", "", "warning", KATIB, code="setting-ignored")
    missing = [name for name in required if name not in {setting.get("name", "") for setting in settings}]
    if missing:
        message = f"{owner} needs the setting{'s' if len(missing) > 1 else ''} {listed(missing)}"
        yield Remark(path, message, "- {name: " + missing[0] + ', value: "..."}', code="missing-setting")
