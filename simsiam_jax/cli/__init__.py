"""From a command line to a run, and from a mistake to one clear line."""

from simsiam_jax.runtime import keep_freed_memory

# Before anything starts a thread: glibc gives each thread that allocates a region of its own, and those made earlier
# give large blocks back to the system whatever is set later.
keep_freed_memory()
