"""How sure a number is.

Read ``intervals.py`` first (intervals of distances), then ``proportions.py`` (shares of images),
``rank_correlation.py`` (whether two quantities rise and fall together), ``roc.py`` (how well a score tells two groups
apart) and ``angles.py`` (angles, and what they would be by chance).
"""
