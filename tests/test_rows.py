"""Batches are a function of the step alone."""

import pytest
import torch

from mekd_plugin.rows import Shard, ShuffledIndices


@pytest.mark.parametrize("count", [3, 20, 200])
def test_a_device_is_sent_few_things(count, monkeypatch):
    """A permutation, or a batch of several of them; on the meta device, whose tensors have a shape and no content."""
    sent = []
    to = torch.Tensor.to

    def noted(tensor, where):
        sent.extend([len(tensor)] if torch.device(where).type == "meta" else [])
        return to(tensor, where)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    order = ShuffledIndices(count, seed=0)
    for step in range(10):
        sent.clear()
        assert order.batch(step, 64, Shard(), "meta").shape == (64,)
        assert len(sent) <= 2
