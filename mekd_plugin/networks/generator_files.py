"""Generators read back from the files that runs keep."""

from __future__ import annotations

import json
from pathlib import Path

from mekd_plugin.errors import CheckpointError
from mekd_plugin.networks.generators import Generator
from mekd_plugin.networks.latent_maps import MappedGenerator
from mekd_plugin.networks.mixtures import MixtureGenerator
from mekd_plugin.networks.weights import read_safetensors
from mekd_plugin.responses import ScoreNormalisation

__all__ = ["AnyGenerator", "load_generator"]

AnyGenerator = Generator | MappedGenerator | MixtureGenerator


def load_generator(path: str | Path) -> AnyGenerator:
    """The generator that a run kept as ``generator.safetensors``, in evaluation mode on the CPU.

    Raises:
        CheckpointError: the file is missing or damaged, or does not say the generator's sizes.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"no generator at {path}: expected generator.safetensors of a run")
    try:
        weights, metadata = read_safetensors(Path(path))
        config = json.loads(metadata["config"])
        normalisation, mapping, mixture = (config.pop(key, None) for key in ("normalisation", "mapping", "mixture"))
        config["image_shape"] = tuple(config["image_shape"])
        generator: AnyGenerator
        if mixture is not None:
            generator = MixtureGenerator(**config, **mixture)
        else:
            plain = Generator(**config)
            generator = plain if mapping is None else MappedGenerator(plain, **mapping)
        generator.load_state_dict(weights)
        if normalisation is not None:
            generator.normalise(ScoreNormalisation.from_record(normalisation))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a generator of ours ({error}); expected generator.safetensors of a run"
        ) from error
    return generator.eval()
