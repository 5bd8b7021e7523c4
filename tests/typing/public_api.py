# pyright: strict, reportUnknownMemberType=true, reportUnknownVariableType=true, reportUnknownArgumentType=true
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownParameterType=true, reportUnknownLambdaType=true, reportMissingTypeArgument=true
"""The public names as a stranger uses them: checked by pyright, with everything strict (pandas has no stubs), and never run.

What this file asks of a type is a promise to whoever checks their own code against this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor, nn

import diagnostics as dx
from diagnostics.measures.dynamics import mase
from diagnostics.measures.geometry import two_nn
from diagnostics.measures.locality import TokenSimilarity, self_similarity
from diagnostics.measures.probes import RidgePath, ridge
from diagnostics.measures.similarity import MinibatchCka, canonical_correlations, cka
from diagnostics.plugin import EncoderTests
from diagnostics.sklearn import TapFeatures


def a_run_is_read() -> None:
    with dx.watcher() as watch:
        run = dx.run("fracast", "lorenz?n=40", controls=False, precision="float16", taps=["block.3"], watch=watch)
    assert_type(run, dx.Run)
    dx.compare([run, run.path], watch=dx.silent)
    assert_type(dx.open_run(run.path), dx.Run)
    assert_type(run.n, dict[str, int])
    assert_type(run.encoder, dx.Encoder)
    assert_type(run.encoder_name, str)
    for measure in ("linear_probe", None):
        run.recommend(target="hidden_z", measure=measure)
        run.probe(target="hidden_z", measure=measure)
        run.profile(target="hidden_z", measure=measure)
        run.plot(target="hidden_z", measure=measure)
    assert_type(run.report().name, str)
    assert_type(run.to_json(), dict[str, Any])
    profile = run.profile("linear_probe/hidden_z")
    assert_type(profile.chosen_tap, str | None)
    assert_type(profile.best_tap, str | None)
    assert_type(profile.units_needed, int | None)
    assert_type(dx.open_run(run.path, margin=0.1).tap_for("hidden_z"), str)
    assert_type(profile.depth_of(profile.output_tap), float)
    if profile.hidden_gap is not None:
        low: float = profile.hidden_gap.low
        assert_type(low, float)


def a_layer_is_used(run: dx.Run, encoder: dx.Encoder, images: Sequence[np.ndarray[Any, Any]]) -> None:
    assert_type(run.features("blocks.9", split="train", pooling=["mean", "prefix"]), xr.DataArray)
    assert_type(run.features("blocks.9", tokens=True), xr.DataArray)
    features = encoder.transform(images, tap="blocks.9", pooling="mean", batch_size=8, device="cpu")
    assert_type(features, np.ndarray)
    probe = run.probe("label", measure="linear_probe", tap="blocks.9")
    assert_type(probe.predict(features), np.ndarray)
    assert_type(probe.tap, str)
    assert_type(probe.pooling, tuple[str, ...])
    encoder.transform(images, tap=probe.tap, pooling=probe.pooling)
    assert_type(probe.score.low, float)
    assert_type(run.to_dataframe(), pd.DataFrame)
    assert_type(run.features(target="label"), xr.DataArray)
    step = dx.sklearn.TapFeatures("timm:vit", tap="blocks.9").fit(images)
    dx.sklearn.TapFeatures("timm:vit", run=run.path, target="label").fit(images)
    assert_type(step, TapFeatures)
    assert_type(TapFeatures(encoder, pooling=("mean",)).transform(images), np.ndarray)


def a_model_is_measured_while_it_trains(module: nn.Module, data: dx.Dataset) -> None:
    encoder = dx.encoder_of(module, data, size=96, mean=(0.5, 0.5, 0.5), std=0.25)
    assert_type(encoder, dx.TorchEncoder)
    assert_type(dx.run(module, data), dx.Run)
    assert_type(dx.run(module, data, size=96, mean=(0.5, 0.5, 0.5), std=0.25), dx.Run)
    assert_type(dx.measure(module, data, size=96, mean=0.5, std=0.25), xr.Dataset)
    step = TapFeatures(module, size=96, mean=0.5, std=0.25).fit(["a.jpg", Path("b.jpg")])
    assert_type(step.encoder_.transform(["a.jpg", Path("b.jpg")]), np.ndarray)
    assert_type(dx.measure(module, data, taps="norm", measures=["rankme"], samples=64, seed=1), xr.Dataset)
    logged: list[dict[str, float]] = []
    watch = dx.LayerProfiles(encoder, data, every=500, log=logged.append)
    dx.LayerProfiles(module, data, size=96, mean=0.5, std=0.25)
    assert_type(watch.step(500), xr.Dataset | None)
    assert_type(watch.profiles, xr.Dataset)


def runs_are_compared(runs: Sequence[Path]) -> None:
    comparison = dx.compare([dx.open_run(runs[0]), *map(str, runs[1:])], base="a", similarity=None)
    assert_type(comparison, dx.Comparison)
    assert_type(comparison.left_out, dict[str, str])
    assert_type(comparison.to_json(), dict[str, Any])
    assert_type(comparison.to_dataframe(), pd.DataFrame)
    assert_type(comparison.report("report.html").name, str)


def an_encoder_is_declared(module: nn.Module) -> dx.Encoder:
    grid = dx.Grid((14, 14), ("y", "x"), prefix=1)
    taps = dx.stack_taps("blocks", 4, 64, grid, norm="norm")
    assert_type(taps, list[dx.Tap])
    taps.append(dx.Tap("head", 1.1, "head", 10, grid, dx.Site("head", call=0, calls=1, layout="features")))

    def prepared(sample: np.ndarray[Any, Any]) -> dict[str, Tensor]:
        return {"pixels": torch.as_tensor(sample)}

    def masked(batch: Any, tap: dx.Tap) -> Tensor | None:
        return batch["mask"] if tap.name == "head" else None

    encoder = dx.TorchEncoder(
        "mine",
        "image",
        module,
        taps,
        "norm",
        prepared,
        np.zeros((224, 224, 3), np.uint8),
        fresh=lambda: nn.Identity(),
        valid=masked,
        rate=None,
    )
    assert_type(encoder.identity, Mapping[str, str])
    assert_type(encoder.tap("norm"), dx.Tap)
    assert_type(encoder.example(), np.ndarray)
    assert_type(dx.frames_of(encoder, 8), dx.TorchEncoder)
    path = dx.save_encoder("saved", encoder, cut="blocks.2", half=True)
    assert_type(path, Path)
    assert_type(dx.load_encoder(path, trust_code=False), dx.TorchEncoder)
    assert_type(dx.discover(module, torch.zeros(1, 3, 8, 8), "mine", {"y": 8, "x": 8}).output_tap, str)
    return encoder


def a_dataset_is_made() -> dx.Dataset:
    split = dx.split_groups(["a", "b", "c"], seed=0)
    values = np.array([0.0, 1.0, 2.0])
    target = dx.Target("value", values, units="Hz", about="of the tone", period=None)
    kind: Literal[
        "label",
        "value",
        "token_label",
        "token_value",
        "event",
        "boxes",
        "masks",
        "phrases",
        "questions",
        "matches",
        "caption",
        "future",
        "state",
    ]
    kind = target.kind
    assert_type(
        kind,
        Literal[
            "value",
            "label",
            "token_label",
            "token_value",
            "event",
            "boxes",
            "masks",
            "phrases",
            "questions",
            "matches",
            "caption",
            "future",
            "state",
        ],
    )
    lazy = dx.LazySamples(3, lambda i: np.full(4, i))
    assert_type(lazy, dx.LazySamples)
    samples = dx.pad_series([np.zeros(4), np.zeros(6)])
    question = dx.Question("pitch", "high", ("how high is it?",), held_back=("is it high?",))
    data = dx.Dataset(
        "tones",
        "audio",
        samples,
        ["a", "b"],
        split.tolist(),
        {"pitch": target},
        rate=16000.0,
        ragged=True,
        texts=["a tone", "another"],
        questions=[(question,), ()],
    )
    assert_type(data.texts, tuple[str, ...] | dx.LazySamples)
    assert_type(data.questions, tuple[tuple[dx.Question, ...], ...] | dx.LazySamples)
    return data


def what_there_is_goes_in(module: nn.Module, pixels: Tensor, names: Sequence[str], table: pd.DataFrame) -> None:
    assert_type(dx.encoder("fracast", trust_code=False), dx.Encoder)
    assert_type(dx.dataset("lorenz?n=40"), dx.Dataset)
    assert_type(dx.dataset(pixels, {"species": names}, groups=names, splits=names, modality="image"), dx.Dataset)
    assert_type(dx.dataset(table, ["a", "b"], groups="machine"), dx.Dataset)
    torch_dataset: torch.utils.data.Dataset[tuple[Tensor, int]] = torch.utils.data.TensorDataset(pixels)  # type: ignore[assignment]  (pairs by what is checked here alone)
    assert_type(dx.run(module, (pixels, names)), dx.Run)
    assert_type(dx.measure(module, torch_dataset), xr.Dataset)
    assert_type(dx.encoder_of(module, (table, "a")), dx.TorchEncoder)
    assert_type(dx.LayerProfiles(module, (pixels, names, names)).step(1), xr.Dataset | None)
    assert_type(dx.complete_splits(["train", "test"], names, 0, "mine"), tuple[list[str], str, bool | Literal["fit"]])


@dx.hookimpl
def encoders() -> Mapping[str, Callable[..., dx.Encoder]]:
    return {"mine": lambda: an_encoder_is_declared(nn.Identity())}


@dx.hookimpl
def datasets() -> Mapping[str, Callable[..., dx.Dataset]]:
    return {"tones": a_dataset_is_made}


def numbers_come_back(x: Tensor, y: np.ndarray[Any, Any]) -> None:
    assert_type(cka(x, y, kernel="rbf"), float)
    assert_type(canonical_correlations(x, y), np.ndarray)
    assert_type(two_nn(x, fit="mle"), float)
    assert_type(self_similarity(x, (8, 8)), TokenSimilarity)
    batches = MinibatchCka()
    batches.update(x, y)
    assert_type(batches.value(), float)
    assert_type(ridge(x, y), RidgePath)
    assert_type(mase(x, x, y), np.ndarray)


class TestMine(EncoderTests):
    encoder = "my_encoder.py:build"


def an_error_is_one_sentence(event: dx.Progress) -> str:
    assert_type(event.done, int)
    assert_type(dx.__version__, str)
    try:
        dx.build("encoder", "mine")
    except dx.DiagnosticsError as error:
        return dx.printable(error)
    return ""
