"""What stands in while somebody else's script runs, and that everything is put back."""

from __future__ import annotations

import pickle
import sys
import zipfile
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from mekd_plugin.harness.stand_ins import modules_replaced, numbers_loadable, replaced


def test_an_attribute_is_put_back_after_an_error():
    owner = SimpleNamespace(value=1)
    with pytest.raises(ZeroDivisionError), replaced(owner, "value", 2):
        assert owner.value == 2
        raise ZeroDivisionError
    assert owner.value == 1


def test_modules_are_put_back_or_gone(monkeypatch):
    there, stand_in = ModuleType("there_already"), ModuleType("stand_in")
    monkeypatch.setitem(sys.modules, "there_already", there)
    with modules_replaced({"there_already": stand_in, "not_there_before": stand_in}):
        import not_there_before  # type: ignore[import-not-found]

        assert not_there_before is sys.modules["there_already"] is stand_in
    assert sys.modules["there_already"] is there and "not_there_before" not in sys.modules


@pytest.mark.parametrize("number", [np.float64(0.005), np.float32(0.5), np.int64(3), np.bool_(True)])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"], ids=["numpy 2", "numpy 1"])
def test_a_checkpoint_with_a_numpy_number_loads_within(number, module, tmp_path):
    path, found = tmp_path / "new.pt", tmp_path / "found.pt"
    torch.save({"lr": number}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(found, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"numpy._core.multiarray", module))
    with numbers_loadable():
        assert torch.load(found, weights_only=True) == {"lr": number}
    with pytest.raises(pickle.UnpicklingError):
        torch.load(found, weights_only=True)


def test_what_could_run_code_is_refused_within(tmp_path):
    torch.save({"lr": SimpleNamespace(value=1)}, tmp_path / "odd.pt")
    with numbers_loadable(), pytest.raises(pickle.UnpicklingError, match="SimpleNamespace"):
        torch.load(tmp_path / "odd.pt", weights_only=True)
