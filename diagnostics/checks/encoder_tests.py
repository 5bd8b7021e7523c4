"""Conformance tests for plugin authors, as a pytest plugin: a base class for a test file, and a fixture.

    from diagnostics.plugin import EncoderTests

    class TestMine(EncoderTests):
        encoder = "my_encoder.py:build"

Every pytest session where `diagnostics` is installed imports this module: nothing heavy may be imported at its top.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from diagnostics.checks.conformance import EncoderUnderTest
    from diagnostics.encoders.encoder import Encoder


CHECKS = (
    "description", "shapes", "grid", "depth", "determinism", "batch_invariance",
    "in_place", "manual_forward", "no_graph", "hooks", "identity_weights", "identity_preprocessing",
    "identity_stable", "save_and_load", "attention", "padding", "sizes",
)  # fmt: skip
"""The names of all checks, in their order: those of `diagnostics.checks.conformance.CHECKS`."""


def _test(check: str) -> Callable[[EncoderTests, EncoderUnderTest], None]:
    """The test of one check."""

    def test(self: EncoderTests, subject: EncoderUnderTest) -> None:
        from diagnostics.checks.conformance import run_check

        outcome = run_check(check, subject)
        if outcome.verdict == "failed":
            pytest.fail(f"{subject.encoder.name}, {check}: {outcome.message}", pytrace=False)
        if outcome.verdict == "not applicable":
            pytest.skip(outcome.message)

    return test


class EncoderTests:
    """One test for each check of `diagnostics check`. Subclass it and name the encoder.

    `encoder` is a name as on the command line (`timm:resnet18`, `my_encoder.py:build?width=64`; a file is looked for
    from where pytest runs and beside the test file); or override `build`. `data` names a dataset whose samples are used
    in place of the encoder's example. A check that fails fails its test with a sentence; one that is not applicable
    skips it with the reason. The encoder is built once for all tests of a class.

    Examples:
        In the tests of a plugin, of which pytest runs one for each check:

        >>> from diagnostics.plugin import EncoderTests
        >>> class TestForecast(EncoderTests):
        ...     encoder = "objectives:lorenz-forecast"
        >>> TestForecast().build()
        'objectives:lorenz-forecast'
        >>> [name for name in dir(TestForecast) if name.startswith("test_")][:3]
        ['test_attention', 'test_batch_invariance', 'test_depth']
    """

    encoder: str = ""
    data: str | None = None
    _subject: EncoderUnderTest | None = None

    def build(self) -> Encoder | str:
        """The encoder under test, or its name. Built from a name, it is built a second time to compare identities."""
        if not self.encoder:
            pytest.fail(f"{type(self).__name__} names no encoder: set `encoder`, or override `build`.", pytrace=False)
        return self.encoder

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest) -> EncoderUnderTest:
        """The encoder prepared for the checks, once for all tests of the class."""
        from diagnostics.checks.conformance import prepare_encoder

        if self._subject is None:
            type(self)._subject = _or_fail(lambda: prepare_encoder(_beside(self.build(), request.path), self.data))
        assert self._subject is not None
        return self._subject

    @classmethod
    def teardown_class(cls) -> None:
        """Releases the encoder."""
        cls._subject = None


for _check in CHECKS:
    setattr(EncoderTests, f"test_{_check}", _test(_check))


@pytest.fixture(name="conforms")
def conforms_fixture(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`conforms(encoder, data=None)`: all checks of an encoder or a name at once, for tests over many encoders.

    Fails with one sentence for each check that fails.
    """

    def conforms(encoder: Encoder | str, data: str | None = None) -> None:
        from diagnostics.checks.conformance import check_encoder

        conformance = _or_fail(lambda: check_encoder(_beside(encoder, request.path), data))
        wrong = [
            f"{outcome.check}: {outcome.message}" for outcome in conformance.outcomes if outcome.verdict == "failed"
        ]
        if wrong:
            pytest.fail(
                f"{conformance.encoder} fails {len(wrong)} of {len(conformance.outcomes)} checks.\n" + "\n".join(wrong),
                pytrace=False,
            )

    return conforms


def _or_fail(make: Callable[[], Any]) -> Any:
    """The result of `make`; fails the test with the message of a DiagnosticsError."""
    from diagnostics.errors import DiagnosticsError

    try:
        return make()
    except DiagnosticsError as error:
        pytest.fail(str(error), pytrace=False)


def _beside(encoder: Encoder | str, test_file: Path) -> Encoder | str:
    """The name of the encoder; the file in it, where it does not exist from here, as the file beside the test file."""
    if not isinstance(encoder, str):
        return encoder
    path = encoder.partition("?")[0].rpartition(":")[0]
    beside = test_file.parent / path
    if path.endswith(".py") and not Path(path).is_file() and beside.is_file():
        return encoder.replace(path, str(beside), 1)
    return encoder
