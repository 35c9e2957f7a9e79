"""Folders that travel with the package."""

from __future__ import annotations

import pytest

from mekd_plugin.errors import InputError
from mekd_plugin.files import bundled


def test_a_bundled_folder_is_found_or_named():
    assert (bundled("configs") / "digits.yaml").is_file()
    with pytest.raises(InputError, match="this installation carries no recipes"):
        bundled("recipes")
