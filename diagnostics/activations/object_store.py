"""An object store, asked through obstore: how it is reached, and what its answers come to.

obstore reads credentials from the environment, in each process for itself. What it says of an error may quote them, and
is never passed on.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
from collections.abc import Generator
from typing import Any

from diagnostics.activations.place import STORES, Address
from diagnostics.errors import DiagnosticsError, StorageError, importing

CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"),
    *(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI" for kind in ("RELATIVE", "FULL")),
)
"""Variables that say how requests to `s3://` are signed."""


@contextlib.contextmanager
def asking(place: Address, doing: str) -> Generator[Any]:
    """The store, to ask it for something: what it answers otherwise is said in a sentence that quotes nothing."""
    try:
        # Made anew where the variables of the environment have changed.
        store = _store(place.parts[0].rstrip(":"), place.parts[1], hash(frozenset(os.environ.items())))
    except (DiagnosticsError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a value that Rust panics over is no Exception
        raise StorageError(
            f"{place} cannot be reached: a variable of the environment is not what obstore expects "
            f"({type(error).__name__}); correct those that begin with AWS_, GOOGLE_ or AZURE_.",
            code="unreadable",
        ) from None
    try:
        yield store
    except obstore().exceptions.AlreadyExistsError:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
    except (FileNotFoundError, obstore().exceptions.BaseError) as error:
        answer = _answer(error)
        if isinstance(error, FileNotFoundError) and answer not in NO_BUCKET:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
        if answer == "InvalidRange":
            raise ValueError("it ends too soon") from None
        why, remedy = next((said for codes, *said in ANSWERS if answer in codes), (answer, AGAIN))
        code = "unwritable" if doing == "written" else "unreadable"
        raise StorageError(f"{place} cannot be {doing} ({why}): {remedy}.", code=code) from None


NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
AGAIN = "give the same command again, which goes on from there"
ANSWERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (NO_BUCKET, "there is no such bucket", "make it, or name another one"),
    (("ExpiredToken", "TokenRefreshRequired"), "the credentials have expired", f"renew them, and {AGAIN}"),
    (("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthenticationFailed", "Unauthenticated"),
     "the credentials are not accepted", "correct the variables of the environment that hold them"),
    (("AccessDenied", "PermissionDenied", "AuthorizationPermissionMismatch"), "access is denied",
     "ask for the rights to get, put, delete and list objects there"),
    (("no credentials",), "no credentials", "set the variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    (("no answer",), "nobody answers", "see that AWS_ENDPOINT_URL and the network are right, and try again"),
)  # fmt: skip
"""What a store's codes, or kinds of errors, come to: why, and what to do."""


def _answer(error: Exception) -> str:
    """The code of a store's answer, its HTTP status, or a word of one's own."""
    text, kind = str(error), type(error).__name__.removesuffix("Error")
    # Without variables a machine is asked, which knows of them if it is one of that cloud.
    if re.search(r"/latest/(api/token|meta-data/)", text):
        return "no credentials"
    if found := re.search(r"<Code>(\w+)</Code>", text) or re.search(r"status code: (\d+)", text):
        return found[1] if found[1] != "403" else "PermissionDenied"
    return "no answer" if "error sending request" in text else kind


def obstore() -> Any:
    """The library; raises DiagnosticsError where it is not installed."""
    with importing("Runs in buckets need", "pip install -e '.[cloud]'"):
        import obstore
        import obstore.exceptions
        import obstore.store
    return obstore


@functools.lru_cache(maxsize=8)
def _store(scheme: str, bucket: str, environment: int) -> Any:
    patience = "10s" if scheme != "s3" or any(map(os.environ.get, CREDENTIALS)) else "2s"
    # Plain HTTP is for whoever names such an endpoint: all others are HTTPS.
    options = {"allow_http": True, "connect_timeout": patience, "timeout": "10m"}
    return getattr(obstore().store, STORES[scheme])(bucket, client_options=options)
