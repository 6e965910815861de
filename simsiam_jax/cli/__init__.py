"""From a command line to a run, and from a mistake to one clear line."""
