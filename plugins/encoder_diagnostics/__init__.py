"""The command `diagnostics`, outside the package of that name, in whose place another distribution's may lie."""

import sys


def main() -> None:
    """Run the command, or name the distribution whose `diagnostics` is imported in its place and exit with status 2."""
    try:
        import diagnostics

        ours = "open_run" in getattr(diagnostics, "__all__", ())
    except Exception:
        # Another's may be of another Python.
        ours = False
    if not ours:
        from importlib.metadata import packages_distributions

        others = sorted(set(packages_distributions().get("diagnostics", ())) - {"encoder-diagnostics"})
        if others:
            print(
                f"diagnostics: the package diagnostics that is imported here is that of {', '.join(others)}, not of "
                f"encoder-diagnostics: pip uninstall {' '.join(others)}, then install this project again.",
                file=sys.stderr,
            )
            sys.exit(2)
    from diagnostics.__main__ import main as run

    run()
