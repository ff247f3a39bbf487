"""A report over many runs: tables, plots, panels, and one page that holds them all."""
