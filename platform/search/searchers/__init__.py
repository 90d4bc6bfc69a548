"""Search algorithms: one file each, with their registry and conformance suite."""
