"""Source-blind baselines, one method a file, each registered like anybody's in the group ``mekd.distillers``."""
