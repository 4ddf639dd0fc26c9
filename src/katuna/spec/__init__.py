"""Manifest text to typed values and back: load, defaults, render, job."""
