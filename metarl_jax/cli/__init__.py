"""The `metarl` command."""
