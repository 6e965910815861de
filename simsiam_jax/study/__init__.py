"""A study: every arm and seed pretrained and evaluated, from its definition to its results."""
