"""Launchers, one for each table, figure or job."""
