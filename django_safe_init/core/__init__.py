"""Engine-neutral values and helpers."""
