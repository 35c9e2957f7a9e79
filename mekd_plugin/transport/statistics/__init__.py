"""How sure a figure is: intervals, a permutation test, rank correlation, proportions, and angles by chance."""
