"""Utilities for all other packages."""
