"""The algorithms: each a short file on the shared core; none imports another."""
