"""Functional training: a frozen state, pure steps, one loop."""
