"""The public names of `diagnostics` and where they stand; read by type checkers and by `diagnostics` itself."""

from diagnostics import sklearn as sklearn
from diagnostics.datasets.dataset import Dataset as Dataset
from diagnostics.datasets.dataset import Question as Question
from diagnostics.datasets.dataset import complete_splits as complete_splits
from diagnostics.datasets.dataset import split_groups as split_groups
from diagnostics.datasets.target import LazySamples as LazySamples
from diagnostics.datasets.target import Target as Target
from diagnostics.datasets.target import pad_series as pad_series
from diagnostics.encoders.encoder import Encoder as Encoder
from diagnostics.encoders.frames import frames_of as frames_of
from diagnostics.encoders.places import discover as discover
from diagnostics.encoders.saved.files import save_encoder as save_encoder
from diagnostics.encoders.taps import Grid as Grid
from diagnostics.encoders.taps import Site as Site
from diagnostics.encoders.taps import Tap as Tap
from diagnostics.encoders.taps import stack_taps as stack_taps
from diagnostics.encoders.torch_encoder import TorchEncoder as TorchEncoder
from diagnostics.errors import DiagnosticsError as DiagnosticsError
from diagnostics.measures.base import Measure as Measure
from diagnostics.progress import Progress as Progress
from diagnostics.progress import silent as silent
from diagnostics.registry import hookimpl as hookimpl
from diagnostics.report.escaping import printable as printable
from diagnostics.report.progress_bars import watcher as watcher
from diagnostics.runs.choice import Choice as Choice
from diagnostics.runs.choice import choose as choose
from diagnostics.runs.comparison import Comparison as Comparison
from diagnostics.runs.comparison import compare as compare
from diagnostics.runs.in_memory import LayerProfiles as LayerProfiles
from diagnostics.runs.in_memory import measure as measure
from diagnostics.runs.inputs import dataset as dataset
from diagnostics.runs.inputs import encoder as encoder
from diagnostics.runs.inputs import encoder_of as encoder_of
from diagnostics.runs.job import run as run
from diagnostics.runs.run import Run as Run
from diagnostics.runs.run import open_run as open_run
from diagnostics.specs import build as build
from diagnostics.specs import load_encoder as load_encoder

__version__: str

def read_stub(source: str) -> dict[str, str]: ...
