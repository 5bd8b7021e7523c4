"""The encoder of each objective: backbone and head from a few numbers, which are also its name."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diagnostics.plugin import DiagnosticsError, Grid, TorchEncoder, central_part, load_encoder, stack_taps
from diagnostics_training.models.encoder import AXES, TUBE, Backbone, EncoderObjective, Model, Sizes
from diagnostics_training.models.inputs import channels_of, extent_of, prepare, resized
from diagnostics_training.objectives import OBJECTIVES, objective_class

WEIGHTS = Path(__file__).parent / "weights"
INITIAL = 7919
"""Apart from the seeds of controls: `fresh(0)` must not draw the initial weights of training seed 0."""
UNNAMED = {"positives": "views"}
"""Options that an encoder's name leaves out where they have this value."""


@dataclass(frozen=True)
class Architecture(Sizes):
    """Everything that decides an encoder except its weights."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise DiagnosticsError(f"There is no objective '{self.objective}': choose one of {', '.join(OBJECTIVES)}.")
        super().__post_init__()

    @property
    def kind(self) -> type[EncoderObjective]:
        """What trains it."""
        return objective_class(self.objective)

    @property
    def spec(self) -> str:
        """The name under which the plugin builds this architecture."""
        if self.modality == "series":
            size = f"length={self.extent[0]}" + (f"&variates={self.channels}" if self.channels > 1 else "")
        else:
            size = f"size={self.extent[-1]}" + (f"&frames={self.extent[0]}" if self.modality == "video" else "")
        options = {option: getattr(self, option) for option in self.kind.options}
        more = "".join(f"&{option}={value}" for option, value in options.items() if UNNAMED.get(option) != value)
        sizes = f"width={self.width}&depth={self.depth}&heads={self.heads}&patch={self.patch}"
        return f"objective:{self.objective}?modality={self.modality}&{size}&{sizes}{more}"

    def model(self) -> Model:
        """Backbone and head with weights from torch's generator."""
        backbone = Backbone(self.patches, self.width, self.depth, self.heads, self.kind.causal)
        return Model(backbone, self.kind.head(self))

    def initial(self, seed: int) -> Model:
        """The weights that training of this seed starts from; backbones of one seed are equal for all objectives."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([INITIAL, seed]).generate_state(1)[0]))
            return self.model()

    def build_objective(
        self, model: Model, regulariser: str = "none", classes: tuple[int, ...] = ()
    ) -> EncoderObjective | None:
        """The objective that trains a model of this architecture; None where nothing does."""
        return self.kind(model, self, regulariser, classes) if self.kind.trained else None

    def encoder(self, model: Model, name: str) -> TorchEncoder:
        """A model of this architecture as an encoder. It is sized for samples of any size that patches fit; pictures of another size are
        brought to its own."""
        grid = Grid(self.grid, AXES[self.modality])
        taps = stack_taps("backbone.blocks", self.depth, self.width, grid, norm="backbone.norm")
        if model.head is not None:
            taps += model.head.taps(self.depth, grid)
        encoder = TorchEncoder(
            name=name,
            modality=self.modality,  # pyright: ignore[reportArgumentType]
            module=model.eval(),
            taps=taps,
            output_tap="norm",
            preprocess=self.preprocess,
            example=self._example(),
            fresh=self.model,
            configuration=self.spec,
            sized_for=lambda sample: self._sized(sample, model, name),
            covers=None if self.modality == "series" else self._covers,
        )
        return encoder.replace(skeleton=self.spec)

    def preprocess(self, sample: np.ndarray) -> Tensor:
        """One raw sample as [C, *extent]."""
        sample = np.asarray(sample)
        if self.modality != "series" and extent_of(self.modality, sample)[-2:] != self.extent[-2:]:
            sample = resized(self.modality, sample, self.extent[-2:])
        self.patches.grid(extent_of(self.modality, sample))
        if channels_of(self.modality, sample) != self.channels:
            raise DiagnosticsError(
                f"This encoder reads series of {self.channels} variate(s), not of {channels_of(self.modality, sample)}."
            )
        return prepare(self.modality, sample[None])[0]

    def _covers(self, shape: tuple[int, ...]) -> tuple[tuple[float, float], ...]:
        return tuple((float(start), float(stop)) for start, stop in central_part(shape, self.extent[-2:]))

    def _sized(self, sample: np.ndarray, model: Model, name: str) -> TorchEncoder | None:
        extent = extent_of(self.modality, np.asarray(sample))
        if extent == self.extent or (self.modality != "series" and any(n % self.patch for n in extent[-2:])):
            return None
        return replace(self, extent=extent).encoder(model, name).replace(configuration=self.spec)

    def _example(self) -> np.ndarray:
        rng = np.random.default_rng(0)
        if self.modality == "series":
            shape = self.extent if self.channels == 1 else (*self.extent, self.channels)
            return rng.standard_normal(shape).cumsum(0).astype(np.float32)
        return rng.integers(0, 256, (*self.extent, 3)).astype(np.uint8)


def untrained(architecture: Architecture, seed: int) -> TorchEncoder:
    """The encoder with the weights that training of this seed starts from."""
    encoder = architecture.encoder(architecture.initial(seed), f"objective-{architecture.objective}")
    group = f"{architecture.objective} (untrained)"
    return encoder.replace(lineage={"objective": architecture.objective, "steps": 0, "seed": seed, "group": group})


def extent(modality: str, length: int, size: int, frames: int) -> tuple[int, ...]:
    """Of samples of a modality."""
    if frames % TUBE:
        raise DiagnosticsError(
            f"A clip of frames={frames} cannot be cut into patches of {TUBE} frames: give an even number."
        )
    known = {"series": (length,), "image": (size, size), "video": (frames, size, size)}
    if modality not in known:
        raise DiagnosticsError(f"There is no modality '{modality}' here: choose one of {', '.join(known)}.")
    return known[modality]


def default_likelihood(modality: str) -> str:
    """Likelihood of a forecast: quantiles of a series, moments of pixels."""
    return "quantile" if modality == "series" else "gaussian"


def bundled(name: str, training_seed: int = 0) -> TorchEncoder:
    """Trained weights that came with this plugin, of the first training seed or another."""
    known = {path.stem: path for path in sorted(WEIGHTS.glob("*.safetensors"))}
    wanted = f"{name}-seed{training_seed}" if training_seed else name
    if wanted not in known:
        there = f"there are {', '.join(known)}" if known else "none came with this version"
        raise DiagnosticsError(
            f"There is no trained encoder 'objectives:{wanted}': {there}; make one with `diagnostics train objectives`."
        )
    return load_encoder(known[wanted])  # pyright: ignore[reportReturnType]
