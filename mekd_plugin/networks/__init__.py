"""Networks for small images: teachers and students by name, and the generator and discriminator of stage 1.

Read ``by_name.py`` first (:func:`build`: ours, torchvision's, or your own), then ``weights.py`` (weights from a file),
the architectures ``lenet.py``, ``resnet.py``, ``vgg.py`` and ``mobilenet.py``, ``generators.py`` and
``discriminators.py`` of the GAN; ``mixtures.py`` and ``latent_maps.py`` are other generators, and
``generator_files.py`` reads any of them back.
"""

from __future__ import annotations

from mekd_plugin.networks.by_name import build, network_names
from mekd_plugin.networks.discriminators import Discriminator, paper_discriminator, small_discriminator
from mekd_plugin.networks.generator_files import load_generator
from mekd_plugin.networks.generators import Generator, NoiseGenerator, sample_latent
from mekd_plugin.networks.latent_maps import MappedGenerator
from mekd_plugin.networks.lenet import LeNet, lenet5, lenet5_half
from mekd_plugin.networks.mixtures import MixtureGenerator
from mekd_plugin.networks.mobilenet import MobileNetV2
from mekd_plugin.networks.resnet import ResNet
from mekd_plugin.networks.vgg import VGG
from mekd_plugin.networks.weights import load_weights, read_weights

__all__ = [
    "VGG",
    "Discriminator",
    "Generator",
    "LeNet",
    "MappedGenerator",
    "MixtureGenerator",
    "MobileNetV2",
    "NoiseGenerator",
    "ResNet",
    "build",
    "lenet5",
    "lenet5_half",
    "load_generator",
    "load_weights",
    "network_names",
    "paper_discriminator",
    "read_weights",
    "sample_latent",
    "small_discriminator",
]
