"""The names of controls (baselines), which finished runs are read by; `kinds` makes them."""

WEIGHTS = ("fresh_weights", "permuted_weights")
INPUTS = ("raw_input", "raw_input_kernel", "summary_statistics")
NAMES: tuple[str, ...] = (*WEIGHTS, *INPUTS, "shuffled_labels")


def control_of(name: str) -> str:
    """The control that a draw belongs to: `fresh_weights` for `fresh_weights.2`, its second draw."""
    return name.partition(".")[0]


def in_words(name: str) -> str:
    """The name of a control as people write it."""
    return name.replace("_", " ")
