"""What a trial draws at random: numbers that depend on the search's seed and on the trial's, and on no other trial's draws."""

from __future__ import annotations

import hashlib
import random

from katuna.manifest.experiment import Experiment
from katuna.search.space import axes


def trial_seed(seed: int, number: int) -> int:
    """32 bits for trial `number` of a search."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest(), "big")


def written_seed(experiment: Experiment) -> int | None:
    """The setting `random_state`. None without the setting, or where its value is no whole number (some algorithms ignore the
    setting)."""
    try:
        return int(experiment.settings["random_state"])
    except (KeyError, ValueError):
        return None


def dice(seed: int, number: int, purpose: str) -> random.Random:
    """A generator of trial `number`'s own for one purpose."""
    return random.Random(f"{seed}/{number}/{purpose}")  # noqa: S311  (a search is no secret)


class Draws:
    """Points at random, each parameter by its distribution, as Optuna's RandomSampler draws them."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self._axes = axes(experiment)
        self._distributions = {name: axis.distribution() for name, axis in self._axes.items()}
        self._seed = seed

    def point(self, number: int) -> dict[str, str]:
        from optuna.samplers import RandomSampler

        sampler = RandomSampler(seed=trial_seed(self._seed, number))
        return {
            name: self._axes[name].text(sampler.sample_independent(None, None, name, distribution))
            for name, distribution in self._distributions.items()
        }
