"""What attention looks at, a sample and head, without its matrix: from the arguments of a fused kernel."""

from diagnostics.encoders.attention.choice import IMPLEMENTATIONS as IMPLEMENTATIONS
from diagnostics.encoders.attention.choice import Implementation as Implementation
from diagnostics.encoders.attention.choice import attention_statistics as attention_statistics
from diagnostics.encoders.attention.matrix import of_matrix as of_matrix
from diagnostics.encoders.attention.statistics import Statistics as Statistics
from diagnostics.encoders.attention.statistics import Tokens as Tokens
