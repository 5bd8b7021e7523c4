"""Dense classification: a linear classifier on single tokens, scored by mean intersection over union."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Tap
from diagnostics.errors import DiagnosticsError, refuse_values
from diagnostics.measures.arrays import solve_shifted, token_samples
from diagnostics.measures.base import Case
from diagnostics.measures.probes.dense import DenseProbe, DenseRows, Judged, Sums, TokenChoice, TokenMap, TokenRead
from diagnostics.measures.probes.least_squares import PENALTIES, Moments, standardise_moments
from diagnostics.measures.probes.softmax import FINAL, LOGISTIC_PENALTIES, Classifiers, LogisticFits, LogisticRows
from diagnostics.measures.threads import one_thread
from diagnostics.vocabulary import SPLITS

MOST_TOKENS = 8192
"""Tokens that a classifier is fitted on and chosen by, drawn at random; test is read whole."""

VOC = "Everingham et al. 2010"

# Nats that the last step may promise where penalties are only ranked. Ten times as many cost up to .02 of mean IoU.
_RANKING, _MOST_RANKING = 1e-3, 30
# The steps of the fit that is read on test, which need not go to `FINAL` where val shows that tokens hold next to
# nothing: where no penalty takes a tenth off the log loss of the classes' shares. There `_LITTLE` moves mean IoU by up
# to .003.
_MOST_FINAL = 100
_LITTLE, _SHARE = 3e-5, 0.1
_FITS = (
    f"L-BFGS until a step promises less than {FINAL:g} nats, or {_LITTLE:g} where no penalty takes a tenth off val's "
    f"log loss, in at most {_MOST_FINAL} steps; penalties are ranked at {_RANKING:g} nats, in at most {_MOST_RANKING} steps"
)
# x [token, feature], value [token] and row [token] of the tokens under a mask, block by block.
_Read = Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]]


def confusion(prediction: Any, truth: Any, classes: int) -> np.ndarray:
    """Counts of each class taken for each, int64 [truth, prediction]; equal shapes, truth below 0 is left out.

    Raises DiagnosticsError for shapes that differ and for classes outside 0 ... classes - 1.

    Examples:
        >>> from diagnostics.measures.probes import confusion
        >>> truth = [0, 0, 0, 1, -1]  # the last one is unknown
        >>> confusion([0, 0, 1, 1, 1], truth, classes=2).tolist()
        [[2, 1], [0, 1]]
    """
    p, t = (x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x)) for x in (prediction, truth))
    refuse_values(
        (
            p.shape != t.shape,
            f"Prediction and truth have shapes {tuple(p.shape)} and {tuple(t.shape)}: give a class for each place of both.",
            "bad-shape",
        ),
        (
            p.is_floating_point() or t.is_floating_point(),
            f"Prediction and truth are {p.dtype} and {t.dtype}: give the integer number of a class.",
            "bad-type",
        ),
    )
    known = t >= 0
    p, t = p.to(t.device)[known].long(), t[known].long()
    if len(t) and not (int(p.min()) >= 0 and max(int(p.max()), int(t.max())) < classes):
        raise DiagnosticsError(
            f"Classes reach from {min(int(p.min()), int(t.min()))} to {max(int(p.max()), int(t.max()))}: number them from "
            f"0 and below classes={classes}.",
            code="bad-value",
        )
    return torch.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes).cpu().numpy()


def iou(matrix: Any) -> np.ndarray:
    """Intersection over union of each class of a confusion matrix [truth, prediction]; NaN where it is in neither.

    Examples:
        >>> from diagnostics.measures.probes import iou
        >>> iou([[3, 1], [1, 3]]).tolist()  # 3 / (3 + 1 + 1)
        [0.6, 0.6]
    """
    counts = np.asarray(matrix, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] == 0:
        raise DiagnosticsError(
            f"A confusion matrix of shape {counts.shape} is not square: give [class, class].", code="bad-shape"
        )
    both = np.diagonal(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    return np.divide(both, either, out=np.full_like(either, np.nan), where=either > 0)


def mean_iou(matrix: Any) -> float:
    """Mean intersection over union of one confusion matrix of the whole data set.

    Source: Everingham et al. 2010, The Pascal VOC challenge.

    Of the classes that are in truth or prediction; NaN where there are none. The mean of each image's own value is
    another number.

    Examples:
        >>> from diagnostics.measures.probes import mean_iou
        >>> mean_iou([[3, 1], [0, 4]])  # of 3 / 4 and 4 / 5
        0.775
    """
    by_class = iou(matrix)
    there = np.isfinite(by_class)
    return float(by_class[there].mean()) if there.any() else float("nan")


@dataclass(frozen=True)
class DenseClassification:
    """Reading of single tokens by a linear classifier.

    `classes` [class] the classes that labels hold; `confusion` [class, class] of all test tokens, truth first;
    `prediction` int [sample, token], -1 outside test and where the label is not known; `mean_iou`, `accuracy` on test;
    `val_mean_iou` of the penalty that was chosen; `converged` whether the last fit took no more steps than it may.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import dense_classification
        >>> labels = np.array([[0, 1, 1], [1, 0, 1], [1, 1, -1]])
        >>> tokens, split = np.eye(2)[labels], ["train", "val", "test"]
        >>> dense_classification(tokens, labels, split).prediction[2].tolist()
        [1, 1, -1]
    """

    classes: np.ndarray
    confusion: np.ndarray
    prediction: np.ndarray
    mean_iou: float
    accuracy: float
    val_mean_iou: float
    penalty: float
    converged: bool


@one_thread()
def dense_classification(tokens: Any, labels: Any, split: Any, *, seed: int = 0) -> DenseClassification:
    """Multinomial logistic regression from single tokens to their classes ("linear segmentation").

    Fitted on train at every penalty, chosen by mean IoU on val, fitted again on both, read once on test; all but test
    on at most `MOST_TOKENS` tokens each time, drawn with `seed`.

    Parameters
    ----------
    tokens: [sample, token, feature].
    labels: int [sample, token], -1 unknown. A class that train does not show is never predicted, and counts.
    split: `train`, `val` or `test` for each sample.

    Examples:
        >>> import numpy as np
        >>> from diagnostics.measures.probes import dense_classification
        >>> labels = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
        >>> tokens, split = np.eye(2)[labels], ["train", "val", "test"]
        >>> fit = dense_classification(tokens, labels, split)
        >>> fit.mean_iou, fit.confusion.tolist()
        (1.0, [[1, 0], [0, 2]])
    """
    given = token_samples(tokens, "tokens")[0]
    x = given.cpu().numpy()
    y = np.asarray(labels.detach().cpu() if isinstance(labels, torch.Tensor) else labels)
    splits = np.asarray(split, dtype=object)
    if y.shape != x.shape[:2] or y.dtype.kind not in "iu" or splits.shape != x.shape[:1]:
        raise DiagnosticsError(
            f"labels are {y.dtype} of shape {y.shape} and split of shape {splits.shape}, for tokens of shape "
            f"{x.shape}: give an integer for each token and a split for each sample.",
            code="bad-shape",
        )
    known = y >= 0
    masks = {name: known & (splits == name)[:, None] for name in SPLITS}
    for name, mask in masks.items():
        if not mask.any():
            raise DiagnosticsError(
                f"labels of shape {y.shape} are known for no {name} token: give some in each split.", code="too-few"
            )
    classes, numbered = np.unique(y[known]), np.full(y.shape, -1)
    numbered[known] = np.searchsorted(classes, y[known])

    def read(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        yield x[mask], numbered[mask], np.nonzero(mask)[0]

    fit = _fit_classifier(
        read,
        masks["train"],
        masks["val"],
        labels=numbered,
        classes=len(classes),
        name="labels",
        seed=seed,
        device=str(given.device),
    )
    prediction, guess = np.full(y.shape, -1), np.concatenate([fit.model.predict(x) for x, _, _ in read(masks["test"])])
    prediction[masks["test"]] = classes[guess]
    matrix = confusion(guess, numbered[masks["test"]], len(classes))
    return DenseClassification(
        classes,
        matrix,
        prediction,
        mean_iou=mean_iou(matrix),
        accuracy=float(np.trace(matrix) / matrix.sum()),
        val_mean_iou=fit.val_mean_iou,
        penalty=fit.penalty,
        converged=fit.model.fits.converged,
    )


@dataclass(frozen=True)
class _TokenClassifier:
    """A classifier (of codes), and how it did on val."""

    model: Classifiers
    penalty: float
    val_mean_iou: float
    val: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Class predicted, class, and row of each val token that was read."""


def _fit_classifier(
    read: _Read, train: np.ndarray, val: np.ndarray, labels: np.ndarray, classes: int, name: str, seed: int, device: str
) -> _TokenClassifier:
    """The classifier of train and val tokens, masks [sample, token], of best mean IoU on val.

    Of equal ones it has the least loss.
    """
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(train | val))
    of_train, of_val, of_both = (np.zeros_like(train) for _ in range(3))
    for some, mask in ((of_train, train), (of_val, val), (of_both, train | val)):
        some.flat[drawn[mask.ravel()[drawn]][:MOST_TOKENS]] = True
    if len(np.unique(labels[of_train])) < 2:
        raise DiagnosticsError(
            f"{name} has only one class in its {int(of_train.sum())} train tokens: leave it out or use more samples.",
            code="too-few",
        )
    any_ = of_train | of_val | of_both
    blocks = list(read(any_))
    x, y = torch.as_tensor(np.concatenate([block[0] for block in blocks]), device=device), labels[any_]
    samples = np.concatenate([block[2] for block in blocks])[of_val[any_]]
    held_out, truth = _some(x, of_val[any_]), y[of_val[any_]]
    rows, known = _rows(x, y, of_train[any_])
    # Tokens of a class that train does not show count as missed, and have no probability.
    seen = np.isin(truth, known)
    codes = np.searchsorted(known, truth[seen])
    fits, tried, worse = None, list[tuple[tuple[float, float], float, LogisticFits]](), 0
    # The weakest are the slowest to fit.
    for penalty in sorted(LOGISTIC_PENALTIES, reverse=True):
        fits = rows.fit([[penalty]], decrease=_RANKING, start=fits, most=_MOST_RANKING)
        guess = Classifiers(fits, known)(held_out[None])[0]
        score = mean_iou(confusion(guess, truth, classes))
        loss = float(fits.judge(_some(held_out, seen)[None], codes)[1].sum())
        worse = 0 if not tried or (score, -loss) > max(trial[0] for trial in tried) else worse + 1
        tried.append(((score, -loss), penalty, fits))
        if worse == 2:
            break
    (best, _), penalty, fits = max(tried, key=lambda trial: trial[0])
    guess = Classifiers(fits, known)(held_out[None])[0]
    without = -float(rows.shares.log()[torch.as_tensor(codes, device=device)].sum())
    little = -max(loss for (_, loss), *_ in tried) > (1 - _SHARE) * without
    rows, both = _rows(x, y, of_both[any_], fits)
    start = fits if np.array_equal(both, known) else None
    model = rows.fit([[penalty]], decrease=_LITTLE if little else FINAL, start=start, most=_MOST_FINAL)
    return _TokenClassifier(Classifiers(model, both), penalty, best, (guess, truth, samples))


def _rows(
    x: torch.Tensor, y: np.ndarray, some: np.ndarray, like: LogisticFits | None = None
) -> tuple[LogisticRows, np.ndarray]:
    """Some of the tokens to fit on, and the classes that they show."""
    known, codes = np.unique(y[some], return_inverse=True)
    return LogisticRows(_some(x, some)[None], codes, like=like), known


def _some(x: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    return x[torch.as_tensor(mask, device=x.device)]


class Classes(Sums):
    """The class of every place by a linear discriminant (Fisher 1936; Hastie et al. 2009, section 4.3).

    The covariance within classes is shrunk by the penalty; priors are the classes' shares to a power, as mean
    intersection over union weighs rare classes like common ones.
    """

    variants: ClassVar = {"prior_power": (0.0, 0.25, 0.5, 0.75, 1.0)}

    def columns(self, dense: DenseRows, rows: np.ndarray) -> np.ndarray:
        return np.eye(len(dense.classes), dtype=np.float32)[self._codes(dense, rows)]

    def origin(self, dense: DenseRows) -> np.ndarray:
        return np.zeros(len(dense.classes))

    def solve(self, dense: DenseRows, moments: Moments, penalty: float) -> TokenMap:
        mean, _, scale, squares, towards = standardise_moments(moments)
        counts = moments.y
        there = counts > 0
        # `towards` are the sums of standardised features over each class's tokens.
        means = np.divide(towards, counts, out=np.zeros_like(towards), where=there)
        within = squares - (means * counts) @ means.T
        weights = solve_shifted(within / moments.n, penalty, means)
        shares = np.log(np.where(there, counts, 1) / moments.n)
        powers = np.array(Classes.variants["prior_power"])
        bias = np.where(there, powers[:, None] * shares - (means * weights).sum(axis=0) / 2, -np.inf)
        return TokenMap(mean, scale[:, None] * weights, bias, dense.classes)

    def judge(self, dense: DenseRows, readout: TokenMap, said: Tensor, rows: np.ndarray) -> Judged:
        known, classes = dense.known[rows], len(dense.classes)
        truth, guess = self._codes(dense, rows)[known], said.argmax(dim=-1).cpu().numpy()[known]
        start = np.nonzero(known)[0] * classes
        most = len(rows) * classes
        right = truth == guess
        inside, told, both = (
            np.bincount(of, minlength=most).reshape(len(rows), classes)
            for of in (start + truth, start + guess, (start + truth)[right])
        )
        # All samples' stay in memory, of validation for each prior.
        least = np.min_scalar_type(2 * known.shape[1])
        judged = {"loss": inside + told - 2 * both, "reference": inside + told - both}
        return {name: of.astype(least) for name, of in judged.items()}

    def attributes(self, dense: DenseRows) -> dict[str, Any]:
        return {
            "functional": "mean over classes of intersection over union, from one confusion matrix of all test tokens; "
            "linear discriminant with a shrunk covariance within classes, on all tokens of train and val",
            "penalties": list(PENALTIES),
            "tokens_fitted": int(dense.mask(dense.rows.fit).sum()),
            "line_commonest": _commonest(dense),
        }

    def beside(self, test: Judged) -> dict[str, Any]:
        union, both = (of.sum(axis=0) for of in (test["reference"], test["reference"] - test["loss"]))
        # Twice the union counts each right token twice and each wrong one four times, in two classes.
        tokens = (union.sum() + both.sum()) / 2
        by_class = np.divide(both, union, out=np.full(union.shape, np.nan), where=union > 0)
        return {"token_accuracy": both.sum() / tokens, "iou": by_class}

    @staticmethod
    def _codes(dense: DenseRows, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(dense.classes, np.where(dense.known[rows], dense.values[rows], dense.classes[0]))


class SegmentationProbe(DenseProbe):
    """Mean intersection over union of a linear classifier on each tap's grid tokens, as in `dense_classification`.

    From one confusion matrix of all test tokens: `loss` and `reference_loss` are union less intersection, and union, of
    each unit and class. All taps are scored on one grid; see `DenseRows`.
    """

    name = "segmentation_probe"
    answers = "Does each token encode the class at its position?"
    source = "linear segmentation (Oquab et al. 2023, 2304.07193, section 7.4); mean IoU: Everingham et al. 2010"
    needs = "tokens"
    kinds = streams = ("token_label",)
    losses, score_name, metric = "counts", "mIoU", "mean_iou"
    known_answers = (
        Case("mIoU of confusion ((3, 1), (1, 3))", 0.6, VOC, lambda: mean_iou([[3, 1], [1, 3]])),
        Case(
            "off-diagonal count of truth 0 taken for 1",
            1,
            VOC,
            lambda: float(confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)[0, 1]),
        ),
    )

    def choose(self, dense: DenseRows, tap: Tap, seed: int) -> TokenChoice:
        fit = self._fitted(dense, tap, seed)
        guess, truth, samples = fit.val
        judged = np.stack(self.judge(dense, None, dense.classes[guess], dense.classes[truth]), axis=1)
        sums = np.zeros((len(dense.rows.val_units), *judged.shape[1:]))
        np.add.at(sums, dense.unit_of(samples, "val"), judged)
        return TokenChoice({"penalty": fit.penalty}, (sums[:, 0], sums[:, 1]), fit)

    def fits(self, dense: DenseRows, tap: Tap, numbers: Mapping[str, float], start: Any = None) -> Classifiers:
        # Through all penalties where there is no start: each fit begins where the one before it ended.
        model = (start or self._fitted(dense, tap, int(numbers["seed"]))).model
        return replace(model, numbers=dense.classes[model.numbers])

    def _fitted(self, dense: DenseRows, tap: Tap, seed: int) -> _TokenClassifier:
        def read(mask: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for x, y, samples in dense.blocks(tap, mask):
                yield x, np.searchsorted(dense.classes, y), samples

        labels = np.where(dense.known, np.searchsorted(dense.classes, dense.values), -1)
        device = dense.activations.device if dense.activations.device.startswith("cuda") else "cpu"
        train, val = (dense.mask(rows) for rows in (dense.rows.train, dense.rows.val))
        return _fit_classifier(
            read,
            train,
            val,
            labels=labels,
            classes=len(dense.classes),
            name=f"Target {dense.target.name}",
            seed=seed,
            device=device,
        )

    def judge(
        self, dense: DenseRows, readout: Any, guess: np.ndarray, truth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inside, told = (np.eye(len(dense.classes))[np.searchsorted(dense.classes, of)] for of in (truth, guess))
        missed = (guess != truth)[:, None]
        return (inside + told) * missed, inside + told * missed

    def beside(self, dense: DenseRows, readout: Classifiers, test: TokenRead) -> dict[str, Any]:
        matrix = _confusion(dense, test.guess, test.truth)
        return {"token_accuracy": np.trace(matrix) / matrix.sum(), "steps": readout.fits.steps, "iou": iou(matrix)}

    def attributes(self, dense: DenseRows, readouts: Mapping[str, Classifiers]) -> dict[str, Any]:
        short = [tap for tap, readout in readouts.items() if not readout.fits.converged]
        return {
            "functional": "mean over classes of intersection over union, from one confusion matrix of all test tokens; "
            "multinomial logistic regression with an L2 penalty on tokens drawn from train and val",
            "penalties": list(LOGISTIC_PENALTIES),
            "tokens_fitted": min(MOST_TOKENS, int(dense.mask(dense.rows.fit).sum())),
            "fits": _FITS,
            "converged": f"not in {_MOST_FINAL} steps: {', '.join(short)}" if short else "yes",
            "line_commonest": _commonest(dense),
        }

    def sums(self, target: StoredTarget) -> Classes:
        return Classes()

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        numbers = self.rows(activations, target).classes
        names = [target.classes[c] if c < len(target.classes) else str(c) for c in numbers]
        return super().read_out(activations, target, seed).assign_coords(part=np.array(names, dtype=object))


def _confusion(dense: DenseRows, guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
    told, true = (np.searchsorted(dense.classes, of) for of in (guess, truth))
    return confusion(told, true, len(dense.classes))


def _commonest(dense: DenseRows) -> float:
    """The mean intersection over union on test of always saying the class that most tokens fitted have."""
    truth, fitted = (dense.values[dense.mask(rows)] for rows in (dense.rows.test, dense.rows.fit))
    return mean_iou(_confusion(dense, np.full_like(truth, np.bincount(fitted).argmax()), truth))
