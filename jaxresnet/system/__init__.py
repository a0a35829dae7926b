"""Errors, signals, processes, devices, files and the terminal."""
