"""A finished run, read from disk: activations, results, provenance, table, probes, and its similarity with another run.

Reading it loads no torch; what is computed anew (see `derived`) does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from diagnostics.activations.place import Location, locate
from diagnostics.activations.plan import row_order
from diagnostics.activations.store import Store
from diagnostics.encoders.taps import require_one_grid, taps_together
from diagnostics.errors import DiagnosticsError, check_known, name_error
from diagnostics.measures.base import Measure
from diagnostics.runs.results.recommendation import by_verdict, without_nonlinear
from diagnostics.runs.results.run_data import RunData, run_dataframe
from diagnostics.vocabulary import BY_PLACE, SPLITS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from diagnostics.encoders.encoder import Encoder
    from diagnostics.runs.derived import FittedProbe, HandedOut


class Run(RunData):
    """One encoder on one dataset: activations, results and provenance, in one store on disk.

    Examples:
        What `dx.run("objectives:lorenz-forecast", "lorenz?n=200", out="runs/forecast")` wrote:

        >>> import diagnostics as dx
        >>> run = dx.open_run("runs/forecast")
        >>> print(run.recommend("hidden_z"))
        For hidden_z use blocks.3 (mean and last side by side): R2 0.917 [0.833, 0.968],
        output 0.594 [0.167, 0.837]; shown: hidden by the output (+0.323 [0.106, 0.687]
        at blocks.3); a kernel reads 0.91 of 0.94 from the output; blocks.1, blocks.2 and
        blocks.4 not shown to be worse.
        >>> [read.tap for read in run.recommendations()]
        ['blocks.3', 'blocks.2', 'blocks.4', 'blocks.3', 'blocks.3', 'norm']
        >>> print(run.profiles()[0])
        linear_probe/hidden_z (R2) at 9 taps: use blocks.3 0.917 [0.833, 0.968],
        output norm 0.594 [0.167, 0.837]; hidden by the output (+0.323 [0.106, 0.687] at
        blocks.3)
        >>> run.plot().write_html("targets.html")  # a notebook shows run.plot()
        >>> print(run.report("report.html"))
        report.html
        >>> run.to_json()["n"]
        {'train': 120, 'val': 40, 'test': 40}
        >>> run.provenance("linear_probe/hidden_z")["options"]["compute"]
        'float32'
    """

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the run.

        It is the one that was just run, else it is built again by the name under which it was, at the size of the run's
        samples.

        Its `transform` refuses samples that are prepared to another shape than those of the run.

        Raises DiagnosticsError where it was made in Python, and has no name, and where that name has other weights now.

        Examples:
            >>> import diagnostics as dx
            >>> run, new = dx.open_run("runs/forecast"), dx.dataset("lorenz?n=40&seed=7")
            >>> run.encoder.transform(new, tap=run.recommend("hidden_z").tap).shape
            (40, 96)
        """
        name = self.record.encoder.asked
        if not name:
            raise DiagnosticsError(
                f"The encoder {self.encoder_name} of {self.path} was made in Python and has no name to build it by: "
                f"make it again, or save it with diagnostics.save_encoder and run that folder.",
                code="not-savable",
            )
        from diagnostics.encoders.encoder import pin_to
        from diagnostics.specs import build

        encoder = build("encoder", name)
        if encoder.identity["weights"] != self.store.identity["weights"]:
            raise DiagnosticsError(
                f"'{name}' has other weights now than in {self.path}: bring those back, or run it again.",
                code="other-weights",
            )
        return pin_to(encoder, self.record.sample)

    def features(
        self,
        tap: str | Sequence[str] | None = None,
        split: str | None = None,
        pooling: str | Sequence[str] | None = None,
        tokens: bool = False,
        *,
        target: str | None = None,
    ) -> xr.DataArray:
        """A tap's stored activations, float32 [sample, feature], in the dataset's order.

        Without a tap those of the tap to use, and of several taps side by side (`tap` along `feature` says whose).

        Coordinates along `sample` are the sample's id (`sample`), `split` and `group`; along `feature` which `pooling`
        gave it. `Encoder.transform` gives the same of new samples.

        Parameters
        ----------
        target: for which the tap is recommended; where neither it nor a tap is given, the one tap that is best for all
        targets on
            average, by the losses that choose.
        split: `train`, `val` or `test`; all samples where None.
        pooling: one or several of those stored; all side by side where None, as the probes read them.
        tokens: the grid tokens instead, [sample, token, feature], of those samples whose tokens are stored: a random
        subset,
            as large as the run's token budget. Coordinates along `token` are its places on the grid (`y`, `x`, `t`).

        Raises DiagnosticsError for an unknown tap, split or pooling, and where no tokens are stored.

        Examples:
            >>> import diagnostics as dx
            >>> run = dx.open_run("runs/forecast")
            >>> run.features("blocks.1", split="test", pooling="mean").shape
            (40, 48)
            >>> run.features("blocks.1", tokens=True).shape
            (64, 32, 48)
        """
        return features(self.store, self.tap_for(target) if tap is None else tap, split, pooling, tokens)

    def export(
        self,
        path: str | PurePath,
        tap: str | None = None,
        pooling: str | Sequence[str] | None = None,
        *,
        target: str | None = None,
    ) -> Location:
        """`features` as a Parquet file, with id, split, group and targets of each sample.

        `diagnostics features` writes those of new data.

        Raises DiagnosticsError as `features` does, for a path that does not end in .parquet, and without pyarrow.

        Examples:
            >>> import diagnostics as dx
            >>> import pandas as pd
            >>> run = dx.open_run("runs/forecast")
            >>> table = pd.read_parquet(run.export("hidden.parquet", "blocks.3"))
            >>> list(table.columns)[:4], len(table), len(table["features"][0])
            (['id', 'split', 'group', 'target_hidden_z'], 200, 96)
        """
        from diagnostics.activations.features import export

        read = self.features(tap, pooling=pooling, target=target)
        order, stored = np.argsort(row_order(len(self.store.ids))), self.store.targets()
        targets = {name: (each, each.values[order]) for name, each in stored.items() if each.kind not in BY_PLACE}
        columns = {"id": read["sample"].values, "split": read["split"].values, "group": read["group"].values}
        return export(locate(path), columns, targets, read.values)

    def probe(self, target: str, measure: str | Measure | None = None, tap: str | None = None) -> FittedProbe:
        """The probe of a target that was fitted, with its standardisation, for new samples: `probe.predict(features)`.

        It is fitted again from the stored activations, on train and val with the stored choice, as the measure did it.

        Parameters
        ----------
        measure: by default the one by which the target is recommended; any probe with a `fit`, by its name, or itself
        where no plugin offers
            it. Of one that reads tokens `predict` takes [sample, token, feature].
        tap: by default the one recommended, or the best tap, chosen on val.

        Raises DiagnosticsError where the probe was not fitted in this run, and where its tokens were removed since.

        Examples:
            >>> import diagnostics as dx
            >>> probe = dx.open_run("runs/forecast").probe("hidden_z")

            On series that the run has not seen, and what is right:

            >>> encoder = dx.build("encoder", "objectives:lorenz-forecast")
            >>> new = dx.build("dataset", "lorenz?n=40&seed=7")
            >>> x = encoder.transform(new, tap=probe.tap, pooling=probe.pooling)
            >>> probe.predict(x).round()[:4]
            array([26., 23., 24., 22.])
            >>> new.targets["hidden_z"].values.round()[:4]
            array([24., 20., 22., 29.])
        """
        from diagnostics.runs.derived import fit_probe

        return fit_probe(self, target, measure, tap)

    @property
    def handed_out(self) -> HandedOut:
        """The tap that the encoder's makers hand out, and how far the tap before it is from it.

        It is computed from the stored means.
        """
        from diagnostics.runs.derived import compare_stored_output

        return compare_stored_output(self)

    def similarity_with(
        self, other: Run | str | PurePath, measure: str = "cka", seed: int = 0, most_rows: int | None = None
    ) -> xr.Dataset:
        """The similarity of each tap of this run to each tap of another run, on the same samples.

        `matrix` [tap, tap_other], with `p` and `tau` from permuted samples, calibrated for the most similar pair. The
        other run may be given as its folder. At most `most_rows` samples are used, fewer where the measure itself takes
        fewer.

        Raises DiagnosticsError where the two datasets are not the same, and for a measure that does not compare taps.

        Examples:
            >>> import diagnostics as dx
            >>> cka = dx.open_run("runs/forecast").similarity_with("runs/jepa")
            >>> cka["matrix"].sel(tap="norm", tap_other=["embed", "norm"]).values.round(2)
            array([0.94, 0.27])
        """
        from diagnostics.runs.derived import between

        second = other if isinstance(other, Run) else Run(other)
        prints = [run.record.dataset.fingerprint for run in (self, second)]
        # Equal ids may stand for other samples, as of another seed.
        if sorted(self.store.ids) == sorted(second.store.ids) and prints[0] != prints[1]:
            raise DiagnosticsError(
                f"{self.path} and {second.path} hold other data under the same sample ids (their datasets' "
                f"fingerprints differ): run both encoders on one dataset.",
                code="not-comparable",
            )
        return between(self.store, second.store, measure, seed, most_rows)

    def plot(self, target: str | None = None, measure: str | None = None) -> go.Figure:
        """A plotly heat map of which tap holds which target, by target and tap: the first picture of the report.

        Of one target the score by tap instead, a panel for each probe that read it, or for the one that `measure`
        names. Where no probe read a target, a panel for each measure.

        Raises DiagnosticsError for an unknown target, and where no profile has a value.
        """
        from diagnostics.report.plots import StillFigure, draw, multiples
        from diagnostics.runs.pages.answer_in_words import score_map

        profiles = [p for p in self.profiles() if np.isfinite(p.data["score"].values).any()]
        read = [p for p in without_nonlinear(profiles) if p.is_probe and p.target]
        if target is not None:
            chosen = [p for p in read if p.target == target]
            if not chosen:
                raise name_error("target", target, list(dict.fromkeys(str(p.target) for p in read)))
            chosen = [self.profile(target, measure)] if measure else chosen
        elif read:
            return StillFigure(draw(score_map([("", p) for p in by_verdict(read)])))
        else:
            chosen = [p for p in profiles if p.is_probe] or profiles
        if not chosen:
            raise DiagnosticsError(
                f"{self.path} has no profile to draw: run again with measures that give one.", code="not-measured"
            )
        return StillFigure(multiples([(p.name, draw(p.figure())) for p in chosen]))

    def to_dataframe(self) -> pd.DataFrame:
        """All profiles as one tidy table, a row for each value at a tap; those of controls too.

        Columns `measure`, `target` (None of a measure without one), `family`, `score_name`, `control` (None of the
        encoder itself; of several draws the second is `fresh_weights.2`), `tap`, `depth`, `score`, `low`, `high`,
        `val_score`, and whether the tap is the `best` one and the `output` of what the row is about.

        Examples:
            >>> import diagnostics as dx
            >>> table = dx.open_run("runs/forecast").to_dataframe()
            >>> print(table[table["output"]][["target", "tap", "score"]].round(2).head(2))
                  target   tap  score
            7   hidden_z  norm   0.59
            16  hidden_y  norm   0.98
        """
        return run_dataframe(self)

    def report(self, path: str | PurePath | None = None) -> Location:
        """Write the run as one self-contained HTML file, by default `report.html` inside the run."""
        from diagnostics.runs.pages.run import write_report

        return write_report(self, locate(path) if path else None)

    def _repr_html_(self) -> str:
        from diagnostics.report.html import page_tables
        from diagnostics.runs.pages.run import run_page

        return page_tables(run_page(self))


def open_run(path: str | PurePath, margin: float | None = None) -> Run:
    """A finished run, read from disk; raises when it is not one, is not finished, or is damaged.

    `margin` is the hidden gap that matters, in units of the score, in place of the run's own (see `Profile.margin`).

    Examples:
        >>> import diagnostics as dx
        >>> dx.open_run("runs/forecast")
        <Run lorenz-forecast on lorenz at runs/forecast>
    """
    return Run(path, margin)


def features(
    store: Store,
    tap: str | Sequence[str],
    split: str | None = None,
    pooling: str | Sequence[str] | None = None,
    tokens: bool = False,
) -> xr.DataArray:
    """The features that `Run.features` returns, of any store."""
    if not isinstance(tap, str):
        if tokens:
            require_one_grid(each for each in store.taps if each.name in tap)
        each = [features(store, name, split, pooling, tokens) for name in taps_together(tap)]
        widths = [one.sizes["feature"] for one in each]
        beside = xr.concat([one.drop_attrs() for one in each], "feature", join="exact", combine_attrs="drop")
        return beside.assign_coords(tap=("feature", np.repeat([*tap], widths))).rename(" and ".join(tap))
    stored = {stored.name: stored for stored in store.taps}
    check_known("tap", tap, stored, f"These are stored in {store.path}; `--taps` of a run says which.")
    check_known("split", split, SPLITS)
    rows = np.argsort(row_order(len(store.ids)))
    rows = rows if split is None else rows[store.split[rows] == split]
    if tokens:
        if pooling is not None:
            raise DiagnosticsError(
                f"Tokens are not pooled: leave out either pooling={pooling!r} or tokens=True.", code="conflict"
            )
        values, rows = _tokens(store, tap, rows, split)
        dims, grid = ("sample", "token", "feature"), stored[tap].grid
        # Where each token lies along each of the grid's axes, counted from 0.
        along = {axis: ("token", index.ravel()) for axis, index in zip(grid.axes, np.indices(grid.shape), strict=True)}
        read = "tokens"
    else:
        from diagnostics.encoders.modules import select_poolings

        names = select_poolings(pooling, store.poolings)
        values = np.concatenate([store.pooled(tap, name)[rows].astype(np.float32) for name in names], axis=1)
        dims, along = ("sample", "feature"), {"pooling": ("feature", np.repeat(names, stored[tap].features))}
        read = " and ".join(names)
    return xr.DataArray(
        values,
        dims=dims,
        coords={
            "sample": store.ids[rows].astype(str),
            "split": ("sample", store.split[rows].astype(str)),
            "group": ("sample", store.groups[rows].astype(str)),
            **along,
        },
        name=tap,
        attrs={"tap": tap, "depth": stored[tap].depth, "read": read},
    )


def _tokens(store: Store, tap: str, rows: np.ndarray, split: str | None) -> tuple[np.ndarray, np.ndarray]:
    """float32 [sample, token, feature], and the rows among those given that have tokens."""
    kept = rows[rows < store.token_samples]
    if not len(kept):
        if store.tokens_removed:
            raise DiagnosticsError(
                f"{store.path} stores no tokens (no measure read them, or `diagnostics clean` removed them): leave out "
                f"tokens=True, or give the same `diagnostics run` command again with a measure that reads tokens (as "
                f"cka), which extracts them.",
                code="no-tokens",
            )
        of = f"{split} samples" if split else "samples"
        raise DiagnosticsError(
            f"{store.path} holds no tokens of {of} at tap {tap}, but pooled activations "
            f"({' and '.join(store.poolings)}) of all {len(store.ids):,} samples and tokens of "
            f"{store.token_samples:,}: leave out tokens=True, or run again with --fresh and a larger --token-budget, "
            f"as 1GB (samples of unequal length keep none).",
            code="no-tokens",
        )
    place = np.full(store.token_samples, -1)
    place[kept] = np.arange(len(kept))
    values: np.ndarray | None = None
    for block, read in store.token_blocks(tap):
        wanted = place[block]
        if values is None:
            values = np.empty((len(kept), *read.shape[1:]), dtype=np.float32)
        values[wanted[wanted >= 0]] = read[wanted >= 0]
    assert values is not None  # as many blocks as rows with tokens ask for
    return values, kept
