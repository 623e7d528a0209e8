"""The learned hyperparameter optimiser of `metarl tune`: landscapes it learns from, and searches beside it."""
