"""A report on a run: one HTML file that shows what was computed, when and where, and what failed."""
