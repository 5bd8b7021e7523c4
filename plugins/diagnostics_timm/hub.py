"""The hub of weights, asked once whether it answers; shared by the plugins that fetch from it. Imports neither timm nor torch."""

import contextlib
from collections.abc import Generator

# Seconds that the hub has to answer one request before what is wanted is looked for in the local cache only.
_PATIENCE = 5.0


@contextlib.contextmanager
def quick_offline(local: bool = False) -> Generator[bool]:
    """Tells whether the hub answers; where it does not, or all is `local`, only files on this machine are used.

    Without this, its client takes three quarters of a minute of retries to say that there is no network, also for
    what lies in the cache. Any answer counts, so that proxies, mirrors and private hubs go their usual way.
    """
    import huggingface_hub
    from huggingface_hub import constants

    reached = False
    if not local and not constants.HF_HUB_OFFLINE:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
            reached = True
        except Exception as error:
            if not is_fetching(error):
                raise
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reached
    try:
        yield reached
    finally:
        constants.HF_HUB_OFFLINE = before


def is_fetching(error: BaseException) -> bool:
    """Whether an error comes from the network or its clients."""
    clients = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in clients
