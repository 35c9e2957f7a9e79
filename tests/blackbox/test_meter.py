"""The meter under somebody's script: what it really asks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from mekd_plugin.blackbox import BlackBox, meter
from mekd_plugin.errors import InputError, NeedsNotMet, QueryBudgetExceeded, TeacherAnswerError


def public_style_training(teacher: nn.Module, images: torch.Tensor, epochs: int) -> list[float]:
    """Knowledge distillation as public scripts write it: a random flip of every image in every epoch."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    teacher = teacher.to("cpu")
    teacher.train()
    losses = []
    for _ in range(epochs):
        for (batch,) in DataLoader(TensorDataset(images), batch_size=4, shuffle=True):
            views = batch + 0.05 * torch.randn_like(batch)
            target = functional.softmax(teacher(views) / 4, dim=1)
            loss = functional.kl_div(functional.log_softmax(student(views) / 4, dim=1), target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_counts_every_augmented_view_in_every_epoch(probe, images):
    teacher = meter(probe)
    public_style_training(teacher, images, epochs=7)
    assert teacher.ledger.as_record() == {
        "by_stage": {"module": 70},
        "total": 70,
        "distinct": 70,
        "uncertain": 0,
        "evaluation": 0,
    }
    assert probe.images == 70 and str(teacher.ledger) == "70 images sent, 70 distinct (module 70)"
    assert "70 images sent" in repr(teacher)


@pytest.mark.parametrize("as_teacher", [meter, lambda probe: BlackBox(probe, "logits").as_module()])
def test_a_script_trains_as_it_would_without(new_probe, images, as_teacher):
    bare = new_probe()
    frozen = nn.Module()
    frozen.forward = lambda views: bare.eval()(views).detach()
    assert public_style_training(as_teacher(new_probe()), images, 3) == public_style_training(frozen, images, 3)


def test_two_passes_over_the_same_images_are_sent_twice_and_distinct_once(probe, images):
    teacher = meter(probe)
    for _ in range(2):
        teacher(images)
    assert (teacher.ledger.total, teacher.ledger.distinct) == (20, 10)


def test_stops_the_script_before_its_budget_is_passed(probe, images):
    teacher = meter(probe, budget=25)
    with pytest.raises(QueryBudgetExceeded, match="query budget of 25: 24 are spent"):
        public_style_training(teacher, images, epochs=7)
    assert probe.images == 24


def test_hands_back_what_the_model_returns(probe):
    images = torch.linspace(0, 255, 32).view(2, 1, 4, 4)  # outside any declared range
    answer = meter(probe)(images)
    assert torch.equal(answer, probe.eval()(images).detach())
    assert torch.equal(meter(nn.Flatten())(images), images.flatten(1))
    assert meter(lambda batch: batch.flatten(1).argmax(1))(images).tolist() == [15, 15]


def test_takes_whatever_a_script_sends(probe):
    sentences = torch.randint(0, 100, (5, 7))
    teacher = meter(nn.Sequential(nn.Embedding(100, 4), nn.Flatten(), nn.Linear(28, 3)))
    assert teacher(sentences).shape == (5, 3) and teacher.ledger.total == 5


@pytest.mark.parametrize("answer", [lambda images: (images, images), lambda images: images[:1], lambda images: 3])
def test_features_beside_the_answer_are_refused(images, answer):
    teacher = meter(answer)
    with pytest.raises(TeacherAnswerError, match="answer to batch 1 has"):
        teacher(images)


def test_needs_something_to_ask():
    with pytest.raises(InputError, match="a teacher of type int"):
        meter(3)


@pytest.mark.parametrize(
    ("responses", "expected"),
    [("logits", [[1.0, 3.0]]), ("probabilities", [[0.25, 0.75]]), ("hard", [[0.0, 1.0]])],
)
def test_as_module_returns_plain_scores(responses, expected):
    scores = {"probabilities": [[0.25, 0.75]]}.get(responses, [[1.0, 3.0]])
    box = BlackBox(lambda images: torch.tensor(scores), responses, 2)
    module = box.as_module()
    answer = module(torch.zeros(1, 1, 4, 4))
    assert type(answer) is torch.Tensor and answer.dtype == torch.float32 and answer.tolist() == expected
    assert module.ledger is box.ledger and box.ledger.by_stage == {"module": 1}


def test_as_module_does_not_enforce_the_value_range(probe, images):
    BlackBox(probe, "logits").as_module()(images * 255)
    assert probe.images == 10


def test_as_module_shares_the_budget(probe, images):
    box = BlackBox(probe, "logits", budget=15)
    box.query(images)
    with pytest.raises(QueryBudgetExceeded, match="10 images for 'module'"):
        box.as_module()(images)


def test_data_parallel_is_refused_with_a_reason():
    metered = meter(nn.Linear(4, 2))
    with pytest.raises(NeedsNotMet, match="cannot be replicated by torch.nn.DataParallel"):
        metered._replicate_for_data_parallel()  # what replicate() calls, where there are GPUs to replicate to


@pytest.mark.parametrize(
    "as_teacher", [meter, lambda probe: BlackBox(probe, "logits").as_module()], ids=["meter", "box"]
)
def test_a_script_may_ask_for_the_device(probe, images, as_teacher):
    teacher = as_teacher(probe.double())
    assert teacher.device == torch.device("cpu")
    told = next(teacher.parameters())
    assert told.numel() == 0 and told.device == torch.device("cpu") and told.dtype == torch.float64
    assert not told.requires_grad and not list(teacher.parameters())
    assert sum(parameter.numel() for parameter in teacher.parameters()) == 0
    for parameter in teacher.parameters():
        raise AssertionError(parameter)
    assert teacher(images.to(told.device)).shape == (10, 3)


def test_a_functions_device_is_the_one_it_gets_its_images_on(images):
    box = BlackBox(lambda batch: torch.zeros(len(batch), 3), "logits", 3, device="meta")
    assert box.as_module().device == torch.device("meta") and meter(lambda batch: batch).device == torch.device("cpu")


class Processed(nn.Module):
    """Takes its images by a name, among other arguments, as models of the Transformers library do."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.given = []

    def forward(self, mask=None, pixel_values=None, *, scale=1.0, return_dict=True):
        self.given.append((mask, type(pixel_values), scale, return_dict))
        scores = scale * self.head(pixel_values.flatten(1))
        return {"logits": scores} if return_dict else scores


def test_images_may_come_by_name_among_other_arguments(images):
    model = Processed()
    teacher = meter(model, answer=lambda out: out["logits"])
    expected = 2 * model.head(images.flatten(1)).detach()
    assert torch.equal(teacher(pixel_values=images, scale=2.0), expected)
    assert torch.equal(teacher(None, images, scale=2.0), expected)
    assert model.given == [(None, torch.Tensor, 2.0, True)] * 2
    assert teacher.ledger.total == 20 and teacher.ledger.distinct == 10
    assert torch.equal(meter(model)(pixel_values=images, return_dict=False, scale=2.0), expected)
    boxed = BlackBox(model, "logits", 3, answer=lambda out: out["logits"]).as_module()
    assert torch.equal(boxed(pixel_values=images, scale=2.0), expected)


@pytest.mark.parametrize("given", [(), (3,), ([1.0],)])
def test_a_call_without_a_tensor(probe, given):
    with pytest.raises(InputError, match="called without a tensor"):
        meter(probe)(*given)


def test_a_model_of_the_transformers_library_is_asked_by_its_argument(images):
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=4, patch_size=2, num_channels=1, num_labels=3))
    teacher = meter(model, answer=lambda out: out.logits)
    answer = teacher(pixel_values=images.to(teacher.device), interpolate_pos_encoding=True)
    torch.testing.assert_close(answer, model.eval()(images).logits.detach())
    assert teacher.ledger.total == 10 and next(teacher.parameters()).dtype == torch.float32
