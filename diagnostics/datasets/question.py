"""What can be asked of a sample, with the answer."""

from dataclasses import dataclass

from diagnostics.datasets.samples import LazySamples
from diagnostics.errors import DiagnosticsError


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a sample and its answer.

    Parameters
    ----------
    name: which question it is (`colour`), alike for all samples: scores are told apart by it.
    answer: one text.
    wordings: the question in one or several wordings; a wording of "" asks nothing, so that the answer is a caption.
    held_back: wordings that are never trained on, in which a test asks. Without any it asks in `wordings`.

    Raises DiagnosticsError without a wording.

    Examples:
        >>> import diagnostics as dx
        >>> question = dx.Question("colour", "red", ("which colour?", "name its colour."))
        >>> question.answer
        'red'

        Of a dataset that comes with its questions:

        >>> data = dx.build("dataset", "shapes?n=24&size=32")
        >>> {question.name: question.answer for question in data.questions[0]}
        {'shape': 'star', 'colour': 'red', 'count': 'two', 'upper_left': 'nothing'}
    """

    name: str
    answer: str
    wordings: tuple[str, ...] = ("",)
    held_back: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.wordings:
            raise DiagnosticsError(
                f"Question {self.name} has no wording: give one, or leave `wordings` out for a caption."
            )


def captioned(texts: tuple[str, ...] | LazySamples) -> tuple[tuple[Question, ...], ...] | LazySamples:
    """Captions [sample] as the answers to a question that asks nothing, one for each sample; read on demand as they are."""
    if isinstance(texts, LazySamples):
        return LazySamples(len(texts), lambda i: (Question("caption", texts[i]),))
    return tuple((Question("caption", text),) for text in texts)
