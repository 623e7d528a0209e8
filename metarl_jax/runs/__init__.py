"""One configuration: read, built, trained in a directory, evaluated, drawn."""
