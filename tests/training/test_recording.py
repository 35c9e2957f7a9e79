"""Recorded steps compute what the steps compute; what cannot be recorded is computed as it stands."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR

from mekd_plugin.blackbox import BlackBox
from mekd_plugin.distiller import Player, Training
from mekd_plugin.errors import MekdError
from mekd_plugin.mekd.emulations.gan import deprivatization
from mekd_plugin.mekd.surrogate import Surrogate, surrogate_network, teach_surrogate
from mekd_plugin.networks.discriminators import small_discriminator
from mekd_plugin.networks.generators import Generator
from mekd_plugin.registry import create
from mekd_plugin.rows import ImageRows, Rows
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images, toy_student
from mekd_plugin.training import recording
from mekd_plugin.training.loop import Loop
from mekd_plugin.training.metrics import Metrics
from mekd_plugin.training.processes import Processes
from mekd_plugin.training.recipe import Recipe

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

STEPS = 60
STUDENT = toy_student()  # the one that the stages of a method close over


@pytest.fixture(autouse=True)
def fixed_sums():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def recorders(monkeypatch):
    """Those that are made."""
    made = []

    class Kept(recording.Recorder):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)
            self.most = 0

        def close(self):
            self.most = max(self.most, self.segments)
            super().close()

    monkeypatch.setattr("mekd_plugin.training.stepping.Recorder", Kept)
    return made


def run(stage, *, recipe=None, recorded=True, **settings):
    """Trains ``stage``; the state of all its networks."""
    torch.manual_seed(0)
    STUDENT.load_state_dict(toy_student().state_dict())
    loop = Loop(
        Processes.join("cuda"),
        recipe or Recipe(),
        seed=0,
        metrics=Metrics(),
        progress=False,
        recorded=recorded,
        **settings,
    )
    loop.run(stage, STUDENT, BlackBox(ToyTeacher(), "logits", CLASSES))
    modules = {**{name: player.module for name, player in stage.players.items()}, "student": STUDENT}
    return {f"{name}.{key}": value.cpu() for name, m in modules.items() for key, value in m.state_dict().items()}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def adversarial():
    torch.manual_seed(1)
    generator, discriminator = Generator(CLASSES, (1, 16, 16), width=8), small_discriminator((1, 16, 16))
    rows = ImageRows(torch.rand(64, 1, 16, 16) * 2 - 1, seed=0)
    return deprivatization(
        generator,
        discriminator,
        rows,
        steps=STEPS,
        batch_size=16,
        learning_rates=(2e-4, 2e-4),
        average=0.99,
        shift=1,
        response_weight=0.0,
        reuse="",
    )


def bank_of(images):
    teacher = BlackBox(ToyTeacher().cuda(), "logits", CLASSES)
    method = create("kd", num_classes=CLASSES, image_shape=(1, 8, 8), queries=len(images))
    stages = method.stages(teacher, images.cuda(), STUDENT)
    asking = next(stages)
    asking.bank.fill(teacher, asking.draw, asking.size, stage=asking.name)
    return asking.bank.to("cuda"), stages


def aligned():
    return replace(next(bank_of(toy_images(128, seed=0))[1]), steps=STEPS)


def surrogate():
    bank, _ = bank_of(toy_images(128, seed=0))
    torch.manual_seed(1)
    learner = Surrogate(surrogate_network("wide", CLASSES, (1, 8, 8), 0))
    settings = {"steps": STEPS, "consistency": 1.0, "hard_scale": 8.0, "seed": 0, "fill": -1.0}
    return teach_surrogate("surrogate", learner, bank, toy_images(64, seed=3).cuda(), **settings)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("make, segments", [(adversarial, 3), (aligned, 2), (surrogate, 2)])
def test_a_recorded_stage_ends_where_the_stage_ends(make, segments, precision, recorders):
    recipe = Recipe(precision=precision)
    expected = run(make(), recipe=recipe, recorded=False)
    assert not recorders
    found = run(make(), recipe=recipe)
    assert [recorder.most for recorder in recorders] == [segments]
    same(found, expected)


def telling(step=None, rows=None, **settings):
    """A network that learns an image's mean, the momentum and the rate of its optimiser ever changing."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 1))

    def usual(rows, update, query):
        loss = (network(rows.images).flatten() - rows.images.mean(dim=(1, 2, 3))).square().mean()
        if step is not None:
            step(loss)
        update({"network": loss})
        return {"loss": loss.detach()}

    optimizer = settings.pop("optimizer", lambda weights: AdamW(weights, lr=0.01))
    player = Player(network, optimizer, lambda made: OneCycleLR(made, max_lr=0.01, total_steps=STEPS))
    rows = rows or ImageRows(toy_images(64, seed=0).cuda(), seed=0)
    return Training("telling", rows, usual, {"network": player}, steps=STEPS, batch_size=8, recordable=True)


@pytest.mark.parametrize("optimizer", [AdamW, lambda weights, lr: SGD(weights, lr=lr, momentum=0.9)])
def test_a_schedule_of_rate_and_momentum_is_kept(optimizer, recorders):
    made = {"optimizer": lambda weights: optimizer(weights, lr=0.01)}
    same(run(telling(**made)), run(telling(**made), recorded=False))
    assert recorders[0].most == 2
    assert recorders[0].segments == 0  # they are let go of at the end


@pytest.mark.parametrize("wait", [lambda loss: loss.item(), lambda loss: torch.ones(3).to(loss.device)])
def test_a_step_that_waits_for_the_device_is_not_recorded(wait, recorders):
    same(run(telling(wait)), run(telling(wait), recorded=False))
    assert recorders[0].most == 0


@pytest.mark.filterwarnings("ignore:stage 'telling' is not recorded")
def test_a_recording_that_breaks_off_before_an_update_is_given_up(recorders):
    drawn = []

    def wait(loss):
        drawn.append(torch.rand(3, device="cuda"))
        if torch.cuda.is_current_stream_capturing():
            loss.item()

    same(run(telling(wait)), run(telling(wait), recorded=False))
    assert recorders[0].most == 0
    given_up = [*drawn[:3], *drawn[4 : STEPS + 1]]  # without what was drawn for the recording
    torch.testing.assert_close(given_up, drawn[STEPS + 1 :])


def test_a_recording_that_breaks_off_after_an_update_is_an_error(recorders):
    stage = telling()
    usual = stage.step

    def step(rows, update, query):
        scalars = usual(rows, update, query)
        torch.rand(3, device="cuda")
        if torch.cuda.is_current_stream_capturing():
            scalars["loss"].item()
        return scalars

    with pytest.raises(MekdError, match="recordable=False"):
        run(replace(stage, step=step))
    same(run(adversarial()), run(adversarial(), recorded=False))  # nothing is left over from it
    assert recorders[1].most == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
def test_a_recording_can_be_interrupted(error, recorders):
    def interrupt(loss):
        torch.rand(3, device="cuda")
        if torch.cuda.is_current_stream_capturing():
            raise error("now")

    with pytest.raises(error):
        run(telling(interrupt))
    same(run(adversarial()), run(adversarial(), recorded=False))
    assert recorders[1].most == 3


def test_rows_of_another_shape_are_computed_as_they_stand(recorders):
    class Growing:
        def batch(self, step, size, shard):
            return Rows(toy_images(8 if step < 20 else 12, seed=step).cuda())

    same(run(telling(rows=Growing())), run(telling(rows=Growing()), recorded=False))
    assert recorders[0].most == 2


def test_a_resumed_stage_ends_where_an_undisturbed_one_ends(tmp_path, recorders):
    expected = run(adversarial())

    class Stop(Exception):
        pass

    def stop(stage):
        usual, taken = stage.rows.batch, []

        def batch(step, size, shard):
            taken.append(step)
            if step == 40:
                raise Stop
            return usual(step, size, shard)

        stage.rows.batch = batch
        return stage

    kept = {"checkpoint": tmp_path / "state.pt", "checkpoint_steps": 25}
    with pytest.raises(Stop):
        run(stop(adversarial()), **kept)
    same(run(adversarial(), **kept), expected)
    assert [recorder.most for recorder in recorders] == [3, 3, 3]


def test_what_is_recorded_is_the_networks_own(recorders):
    """Evaluated between two steps, the student is the one that trains."""
    seen = []
    images = toy_images(8, seed=5).cuda()

    def look(step, student):
        student.eval()
        with torch.no_grad():
            seen.append(student(images).cpu())
        student.train()

    both = []
    for recorded in (False, True):
        seen.clear()
        run(aligned(), recorded=recorded, observers=[look])
        both.append(torch.stack(seen))
    assert recorders[0].most == 2
    assert len(both[0]) == STEPS and not torch.equal(both[0][0], both[0][-1])
    torch.testing.assert_close(both[1], both[0])
