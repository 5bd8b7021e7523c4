"""What can be held against known answers: encoders (conformance) and the measures themselves (selftest)."""
