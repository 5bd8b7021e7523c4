"""Checks: whether an encoder keeps its contract (conformance), and whether measures give known answers (selftest)."""
