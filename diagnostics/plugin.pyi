"""What plugins may import beside the public names of `diagnostics`, and where it stands.

Read by type checkers and by `diagnostics.plugin`.
"""

from diagnostics import *  # noqa: F403  (all public names)
from diagnostics.activations.contract import Activations as Activations
from diagnostics.activations.contract import Observation as Observation
from diagnostics.activations.contract import StoredTarget as StoredTarget
from diagnostics.activations.folder import lock as lock
from diagnostics.checks.encoder_tests import EncoderTests as EncoderTests
from diagnostics.datasets.target import on_grid as on_grid
from diagnostics.encoders.attention.kernels import attention_in as attention_in
from diagnostics.encoders.attention.kernels import explain_attention as explain_attention
from diagnostics.encoders.attention.statistics import watch_heads as watch_heads
from diagnostics.encoders.encoder import Reduce as Reduce
from diagnostics.encoders.encoder import keep as keep
from diagnostics.encoders.frames import sampled_frames as sampled_frames
from diagnostics.encoders.hooks import Call as Call
from diagnostics.encoders.hooks import Forward as Forward
from diagnostics.encoders.hooks import as_tokens as as_tokens
from diagnostics.encoders.hooks import first_tensor as first_tensor
from diagnostics.encoders.hooks import moved_most as moved_most
from diagnostics.encoders.hooks import part_of as part_of
from diagnostics.encoders.hooks import recorded as recorded
from diagnostics.encoders.hooks import tensor_at as tensor_at
from diagnostics.encoders.hooks import tokens_at as tokens_at
from diagnostics.encoders.hooks import tokens_of_cells as tokens_of_cells
from diagnostics.encoders.modules import misfits as misfits
from diagnostics.encoders.pictures import FORMATS as FORMATS
from diagnostics.encoders.pictures import central_part as central_part
from diagnostics.encoders.pictures import turn as turn
from diagnostics.encoders.pictures import upright as upright
from diagnostics.encoders.places import Discovered as Discovered
from diagnostics.encoders.places import FirstBlockInput as FirstBlockInput
from diagnostics.encoders.places import Places as Places
from diagnostics.encoders.places.judge import order_of_axes as order_of_axes
from diagnostics.encoders.saved.cut import cut_encoder as cut_encoder
from diagnostics.encoders.saved.files import whole_file as whole_file
from diagnostics.encoders.torch_encoder import last_taps as last_taps
from diagnostics.encoders.torch_encoder import names_of_outputs as names_of_outputs
from diagnostics.errors import StorageError as StorageError
from diagnostics.errors import describe as describe
from diagnostics.errors import enumerated as enumerated
from diagnostics.errors import few as few
from diagnostics.errors import importing as importing
from diagnostics.errors import unknown as unknown
from diagnostics.measures.arrays import svdvals as svdvals
from diagnostics.measures.probes.nearest import recall_hits as recall_hits
from diagnostics.measures.probes.protocol import Probe as Probe
from diagnostics.measures.similarity.base import Similarity as Similarity
from diagnostics.measures.statistics import drawn_scores as drawn_scores
from diagnostics.measures.statistics import interval as interval
from diagnostics.measures.statistics import profile_intervals as profile_intervals
from diagnostics.measures.statistics import resample_counts as resample_counts
from diagnostics.measures.statistics import resampled_scores as resampled_scores
from diagnostics.options import Option as Option
from diagnostics.options import deciding as deciding
from diagnostics.options import decode as decode
from diagnostics.options import options as options
from diagnostics.options import options_of as options_of
from diagnostics.registry import Entry as Entry
from diagnostics.runs.options import default_folder as default_folder
from diagnostics.specs import UntrustedCodeError as UntrustedCodeError
from diagnostics.vocabulary import KERNELS as KERNELS
from diagnostics.vocabulary import SPLIT_OF as SPLIT_OF
from diagnostics.vocabulary import Kernel as Kernel
from diagnostics.vocabulary import Modality as Modality
