"""Every setting, the recipes and presets that fill them, and how a run resolves them."""
