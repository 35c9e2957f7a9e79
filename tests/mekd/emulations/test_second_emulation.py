"""Another way to make the generator, as a third party would write it: the seam holds."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import mse_loss
from torch.optim import Adam

import mekd_plugin as mekd
from mekd_plugin.distiller import Asking, Player, Training
from mekd_plugin.errors import InputError
from mekd_plugin.mekd.emulations.emulation import Emulation
from mekd_plugin.mekd.generated import to_range
from mekd_plugin.mekd.method import MEKD
from mekd_plugin.networks.generators import Generator
from mekd_plugin.responses import ScoreNormalisation
from mekd_plugin.rows import Rows
from mekd_plugin.testing import CLASSES, DistillerContract, ToyTeacher, toy_images, toy_strokes, toy_student
from mekd_plugin.training.recipe import Recipe


@dataclass(frozen=True)
class RegressionSettings:
    steps: int = 60
    style_dim: int = 0


class RegressionDecoder(Emulation):
    """Learns images from the teacher's answers to them, in two rounds: G(y) by the mean squared error."""

    Settings = RegressionSettings
    needs_answers = True

    def __init__(self, settings, **world):
        super().__init__(settings, **world)
        self.decoder, self._normalisation = None, None

    @property
    def style_dim(self):
        return self.settings.style_dim

    @property
    def normalisation(self):
        return self._normalisation

    def stages(self, teacher, images, bank, size):
        span = teacher.value_range
        self.decoder = Generator(self.num_classes, self.image_shape, width=16)
        first, second = size // 2, 3 * size // 4
        strokes = toy_strokes(first, seed=self.seed)
        empty = torch.empty(first, 0)

        def draw(start, stop):
            return Rows(to_range(strokes[start:stop], (-1.0, 1.0), span), extra={"style": empty[start:stop]})

        yield Asking("bank", bank, draw, first, grows=True)
        scores = bank.response.scores(hard_scale=self.hard_scale)
        self._normalisation = ScoreNormalisation(0.0, float(scores.std()))
        yield self._training("decoder", bank, span)
        frozen = self.frozen()

        def redraw(start, stop):
            with torch.no_grad():
                made = frozen(self.draw(start, stop))
            return Rows(to_range(made, (-1.0, 1.0), span), extra={"style": torch.empty(stop - start, 0)})

        yield Asking("bank", bank, redraw, second, grows=True)
        yield self._training("decoder_again", bank, span)

    def frozen(self):
        if self.decoder is None:
            raise InputError("there is no generator yet: run stage 1, or call freeze(generator)")
        return copy.deepcopy(self.decoder).eval().requires_grad_(False)

    def report(self):
        return {"rounds": 2}

    def _training(self, name, bank, span):
        def step(rows, update, query):
            scores = self.normalisation(rows.answers().scores(hard_scale=self.hard_scale))
            loss = mse_loss(self.decoder(scores), to_range(rows.images, span, (-1.0, 1.0)))
            update({"generator": loss})
            return {"loss": loss.detach()}

        players = {"generator": Player(self.decoder, lambda weights: Adam(weights, lr=1e-3))}
        return Training(name, bank.order(self.seed), step, players, steps=self.settings.steps, batch_size=32)


class TestRegression(DistillerContract):
    distiller = MEKD
    settings = {"emulation": RegressionDecoder, "surrogate": None, "emulation_preset": "quick"}


SHORT = {"recipe": Recipe(steps=20, batch_size=16), "device": "cpu", "progress": False}


def run(directory=None, **options):
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=400)
    images = toy_images(60, seed=1)
    return mekd.distill(
        toy_student(),
        box,
        images,
        "mekd",
        emulation=RegressionDecoder,
        surrogate=None,
        directory=directory,
        **{**SHORT, **options},
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rounds_and_student_share_one_bank(tmp_path):
    result = run(tmp_path, validation=0.1)
    assert result.ledger.by_stage == {"bank": 400} and result.held_out_agreement is not None
    stages = [entry["stage"] for entry in result.history]
    assert list(dict.fromkeys(stages)) == ["bank", "decoder", "decoder_again", "alignment"]
    assert result.report["generator"]["rounds"] == 2
    assert (tmp_path / "generator.safetensors").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_all_is_asked_before_the_students_stage_so_that_hosts_carry_it():
    assert MEKD.needs.queries == "once"
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=400)
    settings = {"emulation": RegressionDecoder, "surrogate": None, "device": "cpu", "progress": False}
    hosted = mekd.host(toy_student(), box, toy_images(60, seed=1), "mekd", **settings)
    assert hosted.method.needs.queries == "once" and hosted.ledger.total == 400
    images, _, numbers = next(iter(hosted.loader(16)))
    assert hosted.losses(toy_student(), hosted.rows(images, numbers))["image_distance"].isfinite()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_run_stopped_between_its_rounds_goes_on(tmp_path, batch):
    """The bank's parts are asked in three questions; a run that dies after any of them pays for none twice."""
    whole = run(tmp_path / "whole")
    box = mekd.BlackBox(ToyTeacher(), "logits", CLASSES, budget=400)
    settle, count = box.ledger.settle, []

    def stop():
        settle()
        count.append(None)
        if len(count) == batch:
            raise InterruptedError

    box.ledger.settle = stop
    settings = {"emulation": RegressionDecoder, "surrogate": None, "directory": tmp_path / "run", **SHORT}
    with pytest.raises(InterruptedError):
        mekd.distill(toy_student(), box, toy_images(60, seed=1), "mekd", **settings)
    resumed = run(tmp_path / "run", resume=True)
    assert resumed.ledger.as_record() == whole.ledger.as_record()
    for name, value in resumed.student.state_dict().items():
        assert torch.equal(value, whole.student.state_dict()[name]), name


def test_an_emulation_that_learns_from_answers_needs_a_bank():
    with pytest.raises(
        InputError, match='RegressionDecoder, which learns from the bank\'s answers: take emulation="gan"'
    ):
        MEKD(
            num_classes=3,
            image_shape=(1, 8, 8),
            mode="fresh",
            latent_temperature=1.0,
            emulation=RegressionDecoder,
            surrogate=None,
        )
    with pytest.raises(InputError, match="RegressionDecoder takes no previously trained generator"):
        run(generator=Generator(CLASSES, (1, 8, 8), width=4))
