"""From the files that a run leaves to tables, figures and one page; nothing here imports jax."""
