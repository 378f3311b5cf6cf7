"""Utilities that all other packages use."""
