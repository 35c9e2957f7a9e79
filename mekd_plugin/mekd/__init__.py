"""MEKD, mapping-emulation knowledge distillation (Ma et al., CVPR 2024).

Read ``method.py`` first (the whole method, stage by stage), then ``emulations/`` (how the generator is obtained),
``surrogate.py`` (a network at home that stands in for the teacher) and ``wanted.py`` (what images are drawn for),
``alignment.py`` (the image-space term of stage 2), ``generated.py`` (rows of generated images), and ``folding.py`` (the
frozen generator, made faster).
"""
