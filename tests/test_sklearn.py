"""Features of a tap as a scikit-learn transformer: pipelines, searches, clones, pickles by name, scikit-learn's own checks."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import diagnostics as dx
from diagnostics.sklearn import TapFeatures
from tests.support.refusals import refusal
from tests.support.tiny import tiny_dataset, tiny_encoder

FILE = """
import sys
sys.path.append({support!r})
import numpy as np, torch
import diagnostics as dx
from torch import nn
from tests.support.tiny import tiny_encoder


def build(seed: int = 0):
    return tiny_encoder(seed)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(1, 4) if i == 0 else nn.Linear(4, 4) for i in range(2))
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def any_length(length: int = 4):
    "Steps are tokens, of a series of any length."
    torch.manual_seed(0)
    net = Net()
    def sized(length):
        grid = dx.Grid((length,), ("t",))
        taps = [dx.Tap(f"blocks.{{i}}", (i + 1) / 2, "trunk", 4, grid, dx.Site(f"blocks.{{i}}")) for i in range(2)]
        return dx.TorchEncoder(
            "any", "series", net, taps, "blocks.1", lambda s: torch.tensor(np.asarray(s, np.float32))[:, None],
            np.zeros(length), sized_for=lambda s: sized(len(s)),
        )
    return sized(length)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "mine.py"
    path.write_text(FILE.format(support=str(Path(__file__).parents[1])), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def name(file: Path) -> str:
    return f"{file}:build"


def test_it_is_a_step_of_a_pipeline_that_gives_the_taps_features(name: str) -> None:
    data = tiny_dataset(60)
    labels = data.targets["kind"].values
    wanted = tiny_encoder().transform(data.samples, tap="blocks.1", pooling="mean")
    step = dx.sklearn.TapFeatures(name, tap="blocks.1", pooling="mean")
    np.testing.assert_array_equal(step.fit_transform(data.samples, labels), wanted)
    pipeline = make_pipeline(step, StandardScaler(), LogisticRegression(max_iter=1000)).fit(data.samples, labels)
    alone = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(wanted, labels)
    np.testing.assert_array_equal(pipeline.predict(data.samples), alone.predict(wanted))
    # A tap is searched as any other parameter.
    search = GridSearchCV(pipeline, {"tapfeatures__tap": ["embed", "norm"]}, cv=2).fit(data.samples, labels)
    assert search.best_params_["tapfeatures__tap"] in ("embed", "norm")
    assert clone(step).get_params() == step.get_params()


def test_a_table_comes_out_where_pandas_is_asked_for(name: str) -> None:
    step = TapFeatures(name, tap="norm").set_output(transform="pandas")
    samples = tiny_dataset(6).samples
    for each in (step, clone(step)):
        table = each.fit_transform(samples)
        assert isinstance(table, pd.DataFrame)
        assert list(table.columns[[0, 7, 8]]) == ["norm_mean_0", "norm_mean_7", "norm_last_0"]
        np.testing.assert_array_equal(table, tiny_encoder().transform(samples, tap="norm"))
    # A table that goes in has a sample a row.
    np.testing.assert_array_equal(step.transform(pd.DataFrame(samples)), table)


def test_a_pickle_holds_the_name_and_no_weights(name: str) -> None:
    samples = tiny_dataset(6).samples
    step = TapFeatures(name, tap="blocks.0").fit(samples)
    pickled = pickle.dumps(step)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)  # noqa: S301  (just made)
    assert again.encoder == name
    np.testing.assert_array_equal(again.transform(samples), step.transform(samples))
    # An encoder that was built by name is pickled by it.
    held = TapFeatures(dx.build("encoder", name), tap="blocks.0")
    assert pickle.loads(pickle.dumps(held)).encoder == name  # noqa: S301  (just made)
    assert clone(held).encoder is held.encoder


def test_an_encoder_without_a_name_or_with_other_weights_is_refused(name: str) -> None:
    step = TapFeatures(tiny_encoder(), tap="norm").fit(None)
    with refusal("not-savable", "tiny"):
        pickle.dumps(make_pipeline(step))
    # One that was drawn anew keeps the name of the one that it was made from.
    fresh = pickle.loads(pickle.dumps(TapFeatures(dx.build("encoder", name).fresh(0))))  # noqa: S301  (just made)
    with refusal("other-weights"):
        fresh.transform(tiny_dataset(6).samples)
    with refusal("bad-type", "int"):
        TapFeatures(3).fit(None)
    with refusal("unknown-name", "blocks.9"):
        TapFeatures(name, tap="blocks.9").fit(None)


def test_scikit_learns_own_checks_pass(file: Path) -> None:
    why = "a sparse matrix is refused with a DiagnosticsError, and they ask for a TypeError or ValueError"
    sparse = {f"check_estimator_sparse_{kind}": why for kind in ("array", "matrix", "tag")}
    step = TapFeatures(f"{file}:any_length", tap="blocks.0")
    checks = check_estimator(step, on_fail=None, on_skip=None, expected_failed_checks=sparse)
    status = {one["check_name"]: (one["status"], one["exception"]) for one in checks}
    assert {name: each for name, each in status.items() if each[0] == "failed"} == {}
    assert sum(each[0] == "passed" for each in status.values()) > 20
    with refusal("bad-type"):
        step.fit(csr_array(np.eye(4)))


def test_importing_the_package_needs_no_scikit_learn(tmp_path: Path) -> None:
    code = "import diagnostics, sys; assert not {'sklearn', 'torch', 'pandas'} & set(sys.modules); diagnostics.sklearn.TapFeatures"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
