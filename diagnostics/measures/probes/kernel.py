"""The kernel probe: what a nonlinear readout reads, where the linear one may read less."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from diagnostics.activations.cache import Kept
from diagnostics.activations.contract import Activations, StoredTarget
from diagnostics.encoders.taps import Grid, Tap
from diagnostics.errors import DiagnosticsError
from diagnostics.measures.arrays import ShortRepr, samples
from diagnostics.measures.base import Readout
from diagnostics.measures.kernel_features import BANDWIDTHS, LANDMARKS, LEAST_TRAIN, KernelFeatures
from diagnostics.measures.known_answers import Arrays, Case, normal
from diagnostics.measures.probes import protocol
from diagnostics.measures.probes.linear import LinearProbe
from diagnostics.measures.result import CENTRING, FUNCTIONAL
from diagnostics.measures.statistics import Losses

NYSTROM = "Williams and Seeger 2001 (NeurIPS)"
# Features in bytes: of five thousand samples at six taps. The next target is read from the same ones.
_KEPT = Kept(2**28)


def _product() -> tuple[Arrays, StoredTarget]:
    """Two features and their product, which no linear map of them says anything of."""
    x = normal(500, 2, seed=0)
    split = np.resize(["train", "train", "train", "val", "test"], len(x)).tolist()
    return Arrays({"features": x}, split), StoredTarget("product", "value", x[:, 0] * x[:, 1])


def _r2(result: xr.Dataset) -> float:
    return 1 - float(result["loss"].sum() / result["reference_loss"].sum())


def _squared_distance() -> float:
    """Between the features of the two landmarks 1 and -1 at a bandwidth of their distance, 2."""
    marks = np.array([[1.0], [-1.0]])
    first, second = KernelFeatures(marks, 0)(torch.from_numpy(marks)[:, None])[1.0][:, 0].double()
    return float(((first - second) ** 2).sum())


@dataclass(frozen=True, repr=False)
class KernelReadout(ShortRepr, Readout):
    """A `readout` of a Gaussian kernel's features at one bandwidth (a `share` of the median distance), filled up to a `width`."""

    features: KernelFeatures
    share: float
    width: int
    readout: Readout

    def predict(self, x: np.ndarray) -> np.ndarray:
        features = self.features(torch.from_numpy(x)[:, None])[self.share][:, 0].double().numpy()
        return self.readout.predict(np.pad(features, ((0, 0), (0, self.width - features.shape[1]))))


class KernelProbe(protocol.ClassOrValueProbe):
    """What kernel ridge regression, or kernel logistic regression, reads out at every tap: R2, or accuracy.

    The linear probe, of `KernelFeatures` of the pooled activations in place of these; the bandwidth is chosen as the linear
    probe's penalty is, for each tap and target: `bandwidth` [tap], as a share of the median distance between landmarks.
    """

    name = "kernel_probe"
    answers = "What can a nonlinear readout read, and how well?"
    source = f"Nystrom features of a Gaussian kernel: {NYSTROM}; read by the linear probe"
    kinds = ("label", "value", "state", "future")
    standard = False
    known_answers = (
        Case("squared distance of the features of two landmarks, at a bandwidth of their distance: 2 - 2 / sqrt(e)", 2 - 2 * np.exp(-0.5), NYSTROM, _squared_distance),
        Case("R2 of a product of two features, which a linear map reads nothing of", 1, NYSTROM, lambda: _r2(KernelProbe().compute(*_product(), 0)), 0.02),
        Case("the same by the linear probe", 0, NYSTROM, lambda: _r2(LinearProbe().compute(*_product(), 0)), 0.05),
    )  # fmt: skip

    def read_out(self, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        known = protocol.label_rows if target.kind == "label" else protocol.value_rows
        if why := too_few(len(known(activations, target)[0].train)):
            raise DiagnosticsError(why)
        results = [self._at(tap, activations, target, seed) for tap in activations.taps]
        functional = (
            f"{results[0].attrs[FUNCTIONAL]}, from a Gaussian kernel's features ({LANDMARKS} landmarks at most)"
        )
        stated = {
            FUNCTIONAL: functional,
            CENTRING: "features standardised with the landmarks",
            "bandwidths": [*BANDWIDTHS],
        }
        return xr.concat(results, "tap", combine_attrs="override").assign_attrs(stated)

    def fit(self, activations: Activations, target: StoredTarget, tap: Tap, choice: Mapping[str, float]) -> Readout:
        there, share = self._there(tap, activations, int(choice["seed"])), choice["bandwidth"]
        (read,) = (each for each in there.taps if each.name == str(share))
        x = activations.pooled(tap.name)[activations.split == "train"]
        return KernelReadout(
            KernelFeatures(x, int(choice["seed"])), share, read.features, LinearProbe().fit(there, target, read, choice)
        )

    def _there(self, tap: Tap, activations: Activations, seed: int) -> Activations:
        """The features of a tap's pooled activations as taps, one for each bandwidth, the widest first."""
        x = samples(activations.pooled(tap.name), f"Tap {tap.name} for {self.name}").numpy()
        features = _features(x, x[activations.split == "train"], seed)
        widest = dict(zip(map(str, BANDWIDTHS[::-1]), features[::-1], strict=True))
        taps = [Tap(name, tap.depth, tap.part, features.shape[2], Grid((1,), ("t",))) for name in widest]
        return activations.with_other(taps=taps, pooled=lambda name: widest[name].astype(np.float64))

    def _at(self, tap: Tap, activations: Activations, target: StoredTarget, seed: int) -> xr.Dataset:
        """The probe of one tap, at the bandwidth with the best score where penalties are chosen; the widest of equals."""
        read = LinearProbe().read_out(self._there(tap, activations, seed), target, seed)
        kind = "oof" if "oof_loss" in read else "val"
        scores = Losses(read[f"{kind}_loss"].values, read[f"{kind}_reference"].values).scores
        best = int(np.nan_to_num(scores, nan=-np.inf).argmax())
        at = {"tap": [tap.name], "bandwidth": ("tap", [BANDWIDTHS[::-1][best]])}
        return read.isel(tap=[best]).assign_coords(at).reset_coords("bandwidth")


def too_few(train: int) -> str:
    """Why no kernel is fitted on so many training samples; "" where one is."""
    if train >= LEAST_TRAIN:
        return ""
    return f"{KernelProbe.name} needs {LEAST_TRAIN} training samples, and there are {train}: use a dataset with more."


def _features(x: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """[bandwidth, sample, feature] float32 of x [sample, feature], narrower ones filled up with zeros, which probes drop."""
    digest = hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16)
    digest.update(np.ascontiguousarray(train).data)

    def make() -> np.ndarray:
        made = [values[:, 0].numpy() for values in KernelFeatures(train, seed)(torch.from_numpy(x)[:, None]).values()]
        widest = max(values.shape[1] for values in made)
        return np.stack([np.pad(values, ((0, 0), (0, widest - values.shape[1]))) for values in made])

    return _KEPT.get(seed, f"{x.shape} {digest.hexdigest()}", make)
