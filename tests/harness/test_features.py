"""Models that return features beside their logits, and who looks at the features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mekd_plugin.errors import InputError
from mekd_plugin.harness.features import Logits, WithFeatures, logits_of, noticing
from mekd_plugin.harness.meter import Counted

LOGITS, FEATURE = torch.ones(2, 3), torch.zeros(2, 9)


@pytest.mark.parametrize(
    "answer", [LOGITS, (LOGITS,), (LOGITS, {"feats": [FEATURE]}), (LOGITS, FEATURE), ([FEATURE], LOGITS)]
)
def test_logits_are_the_first_tensor_of_an_answer(answer):
    assert logits_of(answer) is LOGITS

    class Answering(nn.Module):
        def forward(self, images):
            return answer

    assert Logits(Answering())(FEATURE) is LOGITS


def test_an_answer_without_logits_is_named():
    with pytest.raises(InputError, match="returned dict: expected logits"):
        logits_of({"logits": LOGITS})


def test_a_network_answers_in_the_suites_arrangement():
    network = WithFeatures(nn.Flatten(), lambda logits, twice=False: (logits * (2 if twice else 1), {}))
    images = torch.ones(2, 1, 2, 2)
    assert network(images, twice=True)[0].sum() == 16 and network(images)[1] == {}
    assert list(WithFeatures(nn.Linear(2, 2), tuple).state_dict()) == ["network.weight", "network.bias"]


def test_who_only_detaches_features_has_not_looked():
    counted = Counted()
    features, logits = noticing(counted)(nn.Identity(), (), ([torch.ones(2, 3)], torch.ones(2)))
    detached = [feature.detach() for feature in features]
    _ = logits + 1
    assert not counted.inner
    assert (detached[0] * 2).sum().item() == 12 and counted.inner


def test_taking_a_feature_out_of_a_dictionary_is_looking():
    counted = Counted()
    logits, features = noticing(counted)(nn.Identity(), (), (LOGITS, {"feats": [FEATURE]}))
    assert logits is LOGITS and not counted.inner
    assert features["feats"][0] is FEATURE and counted.inner


def test_a_plain_answer_is_left_as_it_is():
    assert noticing(Counted())(nn.Identity(), (), LOGITS) is None
