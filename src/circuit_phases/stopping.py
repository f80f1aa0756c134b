"""When a run is at its end: what stops training, and what a curve that ends so is taken for."""

SOLVED = 0.999
"""The accuracy from which nothing is left to learn; training may stop there (`stop_after`)."""
