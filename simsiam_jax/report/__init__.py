"""From the files of a run to tables, figures and one page. It stands on records and settings, and imports no jax."""
