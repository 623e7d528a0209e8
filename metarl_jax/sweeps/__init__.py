"""Many configurations: ranges, lanes of one program, plans, tables, population-based training."""
