"""MEKD, mapping-emulation knowledge distillation (Ma et al., CVPR 2024).

Read ``method.py`` first (the whole method, stage by stage), then ``emulations/`` (how the generator is obtained),
``surrogate.py`` (a network at home that stands in for the teacher) and ``wanted.py`` (what images are drawn for),
``alignment.py`` (the image-space term of stage 2), ``generated.py`` (rows of generated images), and ``folding.py`` (the
frozen generator, made faster). The pieces of which one builds the method by hand can be imported from here.
"""

from __future__ import annotations

from mekd_plugin.mekd.alignment import image_distance, latent_from_scores
from mekd_plugin.mekd.folding import fold
from mekd_plugin.mekd.health import Health, generator_health
from mekd_plugin.mekd.surrogate import Surrogate, surrogate_network

__all__ = [
    "Health",
    "Surrogate",
    "fold",
    "generator_health",
    "image_distance",
    "latent_from_scores",
    "surrogate_network",
]
