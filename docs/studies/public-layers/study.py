"""The study: regret of rules that choose a layer, from per-layer results that others published.

`python docs/studies/public-layers/study.py FOLDER` reads `scores.json` and `measures.json` there and writes
`summary.json` and the page. FOLDER holds the results that the authors of Layer by Layer (2502.02013) committed:
`model|task` -> layer -> score on test, and `model|task|split|measure` -> normalisation -> value by layer.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diagnostics.measures.regret import mean_over_tasks
from diagnostics.measures.regret_rules import DIRECTIONS
from diagnostics.measures.statistics import Interval

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
from common import fill, held  # noqa: E402  (the folder of studies)

MODELS = ("Pythia/14m", "Pythia/70m", "Pythia/160m", "Pythia/410m")
"""Those with a score of every layer on every task."""
MOST_SETS = 300
"""Sets of three other tasks that are drawn for each task."""
LEAST_CELLS = 20
"""Cells below which a measure is left out."""
MEASURES = {
    "infonce": "infonce",
    "dime": "dime",
    "lidar": "lidar",
    "entropy_dataset": "rankme",
    "entropy_sentence": "matrix_entropy",
    "curvature": "curvature",
}
"""As the authors name them -> whose direction it has. The entropy of a dataset is the logarithm of an effective rank."""
TASKS = {
    "amazon_counterfactual": "AmazonCounterfactualClassification",
    "amazon_massive_intent": "MassiveIntentClassification",
    "amazon_massive_scenario": "MassiveScenarioClassification",
    "amazon_reviews_multi": "AmazonReviewsClassification",
    "arxiv-clustering-s2s": "ArxivClusteringS2S",
    "askubuntudupquestions-reranking": "AskUbuntuDupQuestions",
    "banking77": "Banking77Classification",
    "biorxiv-clustering-s2s": "BiorxivClusteringS2S",
    "biosses-sts": "BIOSSES",
    "emotion": "EmotionClassification",
    "medrxiv-clustering-s2s": "MedrxivClusteringS2S",
    "mind_small": "MindSmallReranking",
    "mtop_domain": "MTOPDomainClassification",
    "mtop_intent": "MTOPIntentClassification",
    "reddit-clustering": "RedditClustering",
    "scidocs-reranking": "SciDocsRR",
    "sickr-sts": "SICK-R",
    "stackexchange-clustering": "StackExchangeClustering",
    "stackoverflowdupquestions-reranking": "StackOverflowDupQuestions",
    "sts12-sts": "STS12",
    "sts13-sts": "STS13",
    "sts14-sts": "STS14",
    "sts15-sts": "STS15",
    "sts16-sts": "STS16",
    "sts17-crosslingual-sts": "STS17",
    "stsbenchmark-sts": "STSBenchmark",
    "toxic_conversations_50k": "ToxicConversationsClassification",
    "tweet_sentiment_extraction": "TweetSentimentExtractionClassification",
    "twentynewsgroups-clustering": "TwentyNewsgroupsClustering",
}
"""The same tasks as the two files name them; three tasks have no measures."""

Cells = dict[tuple[str, str], np.ndarray]
"""By model and task, [layer]."""


def scores(folder: Path) -> Cells:
    """The scores of the complete models, layers 0 (the embedding) to the last."""
    read = json.loads((folder / "scores.json").read_text("utf-8"))
    cells: Cells = {}
    for key, by_layer in read.items():
        model, task = key.split("|")
        if model in MODELS:
            cells[model, task] = np.array([by_layer[str(layer)] for layer in range(len(by_layer))])
    return cells


def values(folder: Path, measure: str, like: Cells) -> Cells:
    """A measure by layer where it is as long as the scores; on the test split, on train where that is not there."""
    read = json.loads((folder / "measures.json").read_text("utf-8"))
    found: Cells = {}
    for (model, task), (name, of) in itertools.product(like, TASKS.items()):
        keys = [f"{model}|{name}|{split}|{measure}" for split in ("test", "train")]
        if of == task and (key := next((key for key in keys if key in read), None)):
            value = np.array(read[key]["raw"], dtype=np.float64)
            if len(value) == len(like[model, task]) and np.isfinite(value).all():
                found[model, task] = value
    return found


def transfer(cells: Cells, first: int, most: int) -> Cells:
    """The share in which each layer is the best of so many other tasks of the model.

    It is taken over all sets of them (a draw of `MOST_SETS`); scores of a task are relative to their mean and spread
    over layers.
    """
    draws, found = np.random.default_rng(0), {}
    for model, task in cells:
        others = np.stack([score for (m, t), score in cells.items() if m == model and t != task])[:, first:]
        spread = others.std(axis=1, keepdims=True)
        others = (others - others.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
        if most == 1:
            sets = [[i] for i in range(len(others))]
        elif most < len(others):
            sets = [draws.choice(len(others), most, replace=False) for _ in range(MOST_SETS)]
        else:
            sets = [range(len(others))]
        best = [first + int(others[[*one]].mean(axis=0).argmax()) for one in sets]
        found[model, task] = np.bincount(best, minlength=len(cells[model, task])) / len(sets)
    return found


def at(cells: Cells, layer: Callable[[int], int]) -> Cells:
    """All of the share at one layer, from the number of the last."""
    return {key: np.eye(len(score))[layer(len(score) - 1)] for key, score in cells.items()}


def uniform(cells: Cells, first: int) -> Cells:
    """Every layer from the first alike."""
    return {key: np.where(np.arange(len(score)) < first, 0.0, 1 / (len(score) - first)) for key, score in cells.items()}


def extreme(measured: Cells, first: int, largest: bool) -> Cells:
    """The layer at which a measure is largest, or smallest."""
    sign = 1 if largest else -1
    return {key: np.eye(len(x))[first + int((sign * x[first:]).argmax())] for key, x in measured.items()}


def rules(folder: Path, cells: Cells, first: int) -> dict[str, Cells]:
    """Rule -> how often it takes each layer, with the layers from `first` for candidates."""
    named = {
        "best of all other tasks": transfer(cells, first, len(cells)),
        "best of 3 other tasks": transfer(cells, first, 3),
        "best of 1 other task": transfer(cells, first, 1),
        "the last layer": at(cells, lambda last: last),
        "second last": at(cells, lambda last: last - 1),
        "depth 1/2": at(cells, lambda last: round(last / 2)),
        "depth 2/3": at(cells, lambda last: round(last * 2 / 3)),
        "depth 3/4": at(cells, lambda last: round(last * 3 / 4)),
        "random": uniform(cells, first),
    }
    if first == 0:
        named["layer 0, the embedding"] = at(cells, lambda last: 0)
    for name, of in MEASURES.items():
        measured, largest = values(folder, name, cells), DIRECTIONS[of].tap == "largest"
        if len(measured) >= LEAST_CELLS:
            named[f"{name}, as published ({DIRECTIONS[of].tap})"] = extreme(measured, first, largest)
            named[f"{name}, the other way"] = extreme(measured, first, not largest)
    return named


def table(regret: Mapping[tuple[str, str], float]) -> np.ndarray:
    """[model, task], NaN where there is none."""
    tasks = sorted({task for _, task in regret})
    return np.array([[regret.get((model, task), np.nan) for task in tasks] for model in MODELS])


def ends(interval: Interval) -> dict[str, float]:
    """To four decimals."""
    return {key: round(value, 4) for key, value in vars(interval).items()}


def summary(folder: Path) -> dict[str, Any]:
    """For each choice of candidates and each rule: cells, mean regret, and differences.

    They are those from random and from the last layer on the same cells, with intervals over tasks alone and over tasks
    and models.
    """
    cells = scores(folder)
    found: dict[str, Any] = {"cells": len(cells), "tasks": len({task for _, task in cells}), "models": list(MODELS)}
    for name, first in (("all", 0), ("blocks", 1)):
        named = rules(folder, cells, first)
        regret = {
            rule: {key: float(cells[key].max() - share @ cells[key]) for key, share in shares.items()}
            for rule, shares in named.items()
        }
        rows: list[dict[str, Any]] = []
        for rule, of_cells in regret.items():
            row: dict[str, Any] = {
                "rule": rule,
                "cells": len(of_cells),
                "regret": ends(mean_over_tasks(table(of_cells))),
            }
            for other, against in (("random", regret["random"]), ("last", regret["the last layer"])):
                away = table({key: value - against[key] for key, value in of_cells.items()})
                by_task = np.nanmean(away, axis=0, keepdims=True)
                row[other] = ends(mean_over_tasks(by_task)) | {"both": ends(mean_over_tasks(away))}
                row[f"{other}_models"] = [round(float(x), 4) for x in np.nanmean(away, axis=1)]
            rows.append(row)
        found[name] = rows
    return found


def results() -> dict[str, Any]:
    """What was found when the study last ran."""
    return json.loads((HERE / "summary.json").read_text("utf-8"))


def number(value: float, signed: bool = False) -> str:
    """To three decimals, without a leading zero."""
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("0.", ".", 1)


def interval(of: Mapping[str, float]) -> str:
    """A difference with its interval."""
    return f"{number(of['value'], True)} [{number(of['low'], True)}, {number(of['high'], True)}]"


def side(of: Mapping[str, float]) -> str:
    """Whether an interval shows a gain or a loss of regret, or neither."""
    return "less" if of["high"] < 0 else "more" if of["low"] > 0 else "no other"


def row_of(found: Mapping[str, Any], candidates: str, rule: str) -> dict[str, Any]:
    """The row of a rule whose name begins so."""
    return next(row for row in found[candidates] if row["rule"].startswith(rule))


def lines(rows: list[dict[str, Any]]) -> str:
    """The rows of a table."""
    return "\n".join(
        f"| {row['rule']} | {row['cells']} | {number(row['regret']['value'])} | {interval(row['random'])} | "
        f"{interval(row['random']['both'])} | {sum(x < 0 for x in row['random_models'])} |"
        for row in rows
    )


HEAD = """| rule | cells | mean regret | minus random's, interval over tasks | the same, over tasks and models | models in which it beats random |
|---|---|---|---|---|---|"""


def render(found: Mapping[str, Any], name: str = "index") -> str:
    """A page: `index`, or `full` with all tables."""
    parts = {"head": HEAD, "all": lines(found["all"]), "blocks": lines(found["blocks"])}
    parts |= {key: str(found[key]) for key in ("cells", "tasks")}
    wanted = {
        "last": "the last layer",
        "random": "random",
        "one": "best of 1",
        "three": "best of 3",
        "others": "best of all",
        "embedding": "layer 0",
        "second": "second last",
        "half": "depth 1/2",
        "infonce": "infonce, the other",
        "dime": "dime, as",
        "lidar": "lidar, as",
        "rank": "entropy_dataset, as",
    }
    for candidates, (key, rule) in itertools.product(("all", "blocks"), wanted.items()):
        if candidates == "blocks" and key == "embedding":
            continue
        row = row_of(found, candidates, rule)
        parts[f"{candidates}.{key}"] = number(row["regret"]["value"])
        for other in ("random", "last"):
            parts[f"{candidates}.{key}.{other}"] = interval(row[other])
            parts[f"{candidates}.{key}.{other}.both"] = interval(row[other]["both"])
            sides = {"": side(row[other]), ".both": side(row[other]["both"])}
            parts |= held({f"{candidates}.{key}.{other}{over}": where for over, where in sides.items()})
    return fill(HERE / f"{name}.md.in", parts)


if __name__ == "__main__":
    (HERE / "summary.json").write_text(json.dumps(summary(Path(sys.argv[1])), indent=1) + "\n", encoding="utf-8")
    for name in ("index", "full"):
        (HERE / f"{name}.md").write_text(render(results(), name), encoding="utf-8")
