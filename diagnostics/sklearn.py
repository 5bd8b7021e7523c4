"""Features of a tap as a scikit-learn transformer, for pipelines and searches."""

import copy
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from torch import nn

from diagnostics.encoders.bare_module import Numbers, wrap
from diagnostics.encoders.encoder import Encoder, first_shape, pin_to
from diagnostics.encoders.modules import select_poolings
from diagnostics.encoders.pictures import to_pixels
from diagnostics.encoders.taps import taps_together
from diagnostics.errors import DiagnosticsError
from diagnostics.runs.inputs import refuse_fed
from diagnostics.runs.run import open_run
from diagnostics.specs import build

__all__ = ["TapFeatures"]


class TapFeatures(TransformerMixin, BaseEstimator):
    """An encoder's features at a tap, as a step of a scikit-learn pipeline.

    Nothing is fitted: `fit` makes the encoder and checks that it has the tap. `transform` takes raw samples as
    `Encoder.transform` does, and gives float32 [sample, feature]. A pickle holds the encoder's name and never its
    weights: the name is built again where it is read, and refused there if its weights are others.

    Parameters
    ----------
    encoder: a name as on the command line (`timm:...`, `file.py:build`, a folder of `save_encoder`), a
    diagnostics.Encoder, or a
        bare torch module, which `fit` wraps for samples like the first; what was made in Python has no name, so it
        cannot be pickled.
    tap: by default the output tap; of several the features stand side by side.
    pooling: one pooling or several; all that the encoder has, side by side, where None.
    batch_size, device: see `Encoder.transform`.
    run, target: the folder of a run of this encoder, and a target of it (all of them where None): in place of `tap` and
    `pooling`, those that
        it recommends. Refused where the run prepared its samples otherwise, or to another shape.
    mean, std, size: of a bare module, as in `dx.run`.

    Raises DiagnosticsError for what `dx.build` and `Encoder.transform` refuse.

    Examples:
        >>> from sklearn.linear_model import RidgeCV
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> import diagnostics as dx
        >>> data = dx.build("dataset", "lorenz?n=200")
        >>> train, z = data.split != "test", data.targets["hidden_z"].values
        >>> step = dx.sklearn.TapFeatures("objectives:lorenz-forecast", tap="blocks.1")
        >>> pipeline = make_pipeline(step, StandardScaler(), RidgeCV())
        >>> pipeline = pipeline.fit(data.samples[train], z[train])
        >>> round(pipeline.score(data.samples[~train], z[~train]), 2)
        0.9
        >>> step.fit(data.samples).transform(data.samples).shape
        (200, 96)
        >>> print(step.get_feature_names_out()[[0, -1]])
        ['blocks.1_mean_0' 'blocks.1_last_47']
    """

    def __init__(
        self,
        encoder: str | Encoder | nn.Module,
        tap: str | Sequence[str] | None = None,
        pooling: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        device: str | None = None,
        run: str | PurePath | None = None,
        target: str | None = None,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        size: int | None = None,
    ) -> None:
        self.encoder = encoder
        self.tap = tap
        self.pooling = pooling
        self.batch_size = batch_size
        self.device = device
        self.run = run
        self.target = target
        self.mean = mean
        self.std = std
        self.size = size

    def fit(self, X: Any, y: Any = None) -> Self:
        """Make the encoder, sized for samples like the first: no other one is read.

        Later samples that are prepared to another shape are refused, since their features would be others.

        Raises DiagnosticsError for a sparse matrix: no encoder reads one.
        """
        if issparse(X):
            raise DiagnosticsError(
                "TapFeatures was given a sparse matrix: give raw samples, or X.toarray().", code="bad-type"
            )
        encoder = self._built(X)
        self.shape_ = () if X is None else first_shape(encoder, X)
        self.encoder_ = pin_to(encoder, self.shape_)
        self._names(self.encoder_)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """float32 [sample, feature] of raw samples, as `Encoder.transform` takes them."""
        encoder = self._ready(X)
        tap, pooling = self._read(encoder)
        return encoder.transform(X, tap=tap, pooling=pooling, batch_size=self.batch_size, device=self.device)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """`blocks.9_mean_0` and so on, one for each feature; those of what goes in are not asked for."""
        return np.array(self._names(self._ready()), dtype=object)

    def _names(self, encoder: Encoder) -> list[str]:
        name, pooling = self._read(encoder)
        own = encoder.side_by_side or [encoder.output_tap]
        names = own if name is None else [name] if isinstance(name, str) else taps_together(name)
        taps, poolings = [encoder.tap(each) for each in names], select_poolings(pooling, encoder.poolings)
        return [f"{tap.name}_{pooling}_{i}" for tap in taps for pooling in poolings for i in range(tap.features)]

    def _read(self, encoder: Encoder) -> tuple[str | Sequence[str] | None, str | Sequence[str] | None]:
        """The tap or taps, and the pooling: those named, or those that the run recommends."""
        if self.run is None:
            if self.target is not None:
                raise DiagnosticsError(
                    f"TapFeatures has a target, {self.target}, and no run that read it: give run=, a run's folder.",
                    code="bad-target",
                )
            return self.tap, self.pooling
        if self.tap is not None or self.pooling is not None:
            raise DiagnosticsError(
                "TapFeatures has a run, which names tap and pooling: leave out tap and pooling, or run.", code="bad-tap"
            )
        run = open_run(self.run)
        if run.store.identity["weights"] != encoder.identity["weights"]:
            raise DiagnosticsError(
                f"{self.run} is a run of {run.encoder_name} with other weights than {encoder.name}: give a run of this "
                f"encoder.",
                code="other-weights",
            )
        tap = run.tap_for(self.target)
        stored = next(each for each in run.store.taps if each.name == tap)
        here = f"{encoder.identity['configuration']}, tokens {encoder.tap(tap).grid}"
        there = f"{run.store.identity['configuration']}, tokens {stored.grid}"
        if (encoder.pinned or isinstance(self.encoder, nn.Module)) and here != there:
            raise DiagnosticsError(
                f"{self.run} is a run of samples that were prepared otherwise ({there}) than for this encoder "
                f"({here}), so its layer and what was fitted there do not hold: give mean, std and size, and samples "
                f"of the size, as that run had them.",
                code="other-run",
            )
        return tap, list(run.store.poolings)

    def _ready(self, X: Any = None) -> Encoder:
        """The encoder that `fit` made; made now where it was not called, since nothing is fitted."""
        if not hasattr(self, "encoder_"):
            # A pickle has kept the shape of the samples that it was fitted with.
            self.encoder_ = pin_to(self._built(X), getattr(self, "shape_", ()))
        return self.encoder_

    def _built(self, X: Any) -> Encoder:
        encoder = build("encoder", self.encoder) if isinstance(self.encoder, str) else self.encoder
        fed: dict[str, Any] = {"mean": self.mean, "std": self.std, "size": self.size}
        if isinstance(encoder, nn.Module):
            if X is None:
                raise DiagnosticsError(
                    "TapFeatures of a bare torch module needs samples to see what it takes: call fit(X).",
                    code="missing-option",
                )
            sample = np.asarray(to_pixels(X[0], grey=False))
            encoder = wrap(
                encoder, "image" if sample.dtype == np.uint8 or sample.ndim == 3 else "series", sample, **fed
            )
        elif isinstance(encoder, Encoder):
            refuse_fed("TapFeatures", encoder, fed)
        if not isinstance(encoder, Encoder):
            raise DiagnosticsError(
                f"TapFeatures was given a {type(encoder).__name__}: give the name of an encoder or a "
                f"diagnostics.Encoder.",
                code="bad-type",
            )
        name, weights = getattr(self, "_pickled", ("", ""))
        if name and self.encoder == name and encoder.identity["weights"] != weights:
            raise DiagnosticsError(
                f"'{encoder.spec}' has other weights here than when this was pickled: bring the same ones, or make "
                "TapFeatures again and refit what follows it.",
                code="other-weights",
            )
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = {**super().__getstate__()}
        encoder: Any = state.pop("encoder_", None)
        if not isinstance(self.encoder, str):
            encoder = self.encoder
            if not getattr(encoder, "spec", ""):
                name = getattr(encoder, "name", type(encoder).__name__)
                raise DiagnosticsError(
                    f"The encoder {name} was made in Python and has no name, so it cannot be pickled, and "
                    f"weights never are: save it with diagnostics.save_encoder and give TapFeatures that folder's "
                    f"name.",
                    code="not-savable",
                )
            state["encoder"] = encoder.spec
        if encoder is not None:
            state["_pickled"] = (state["encoder"], encoder.identity["weights"])
        return state

    def __sklearn_clone__(self) -> Self:
        # The encoder is shared: it cannot be changed, and a deep copy of it would be one of its weights.
        twin = type(self)(**self.get_params(deep=False))
        for kept in ("_sklearn_output_config", "_pickled"):
            if hasattr(self, kept):
                setattr(twin, kept, copy.copy(getattr(self, kept)))
        return twin

    def __sklearn_tags__(self) -> Any:
        # pyrefly: ignore[missing-attribute]
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        # Samples are what the encoder reads: images, series, texts, of any number of axes.
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags
