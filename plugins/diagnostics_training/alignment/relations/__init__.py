"""Frozen teachers of relations: which places of an image belong together."""
