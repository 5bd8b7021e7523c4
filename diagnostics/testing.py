"""The conformance kit for plugin authors: a base class for their test file, loaded as a pytest plugin."""
