"""Golden bytes: what the wire looks like, for ever (see tests/README.md for how to rewrite them on purpose)."""
