"""What mdistiller's script makes of one of our methods: a distiller, and a trainer that brings the rows.

Registering mixes both in before the suite's own classes; the suite's loop runs as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from mekd_plugin.distiller import Remembered
from mekd_plugin.errors import InputError, NeedsNotMet
from mekd_plugin.files import write_atomically
from mekd_plugin.harness.features import Logits, logits_of
from mekd_plugin.harness.guests import open_guest
from mekd_plugin.harness.mdistiller.data import setting_of
from mekd_plugin.harness.row_loader import draw_edge_images
from mekd_plugin.prediction import predict
from mekd_plugin.registry import distillers
from mekd_plugin.training.hosting import Hosted

if TYPE_CHECKING:
    from mdistiller.distillers._base import Distiller
    from mdistiller.engine.trainer import BaseTrainer
else:
    Distiller, BaseTrainer = nn.Module, object

__all__ = ["TRAINER", "GuestDistiller", "GuestTrainer"]

TRAINER = "mekd"
"""``SOLVER.TRAINER`` of a run whose student learns from a method's own rows."""
_FEWEST_CLASSES = 5
_REPLICAS = (
    "torch.nn.DataParallel would copy the method to {count} GPUs, where its questions and its critic's steps are lost: "
    "show the script one of them, CUDA_VISIBLE_DEVICES=0"
)


class GuestDistiller(Distiller):
    """A method as the suite's distiller; registering mixes it in before the suite's own ``Distiller``.

    Its ``teacher`` is an empty module: the method may only ask, and checkpoints hold no teacher.

    Args:
        student: images -> ``(logits, features)``.
        teacher: likewise.
        cfg: with a node of this method's name.

    Attributes:
        method: its name with us.
        node: its name in the suite.
        hosted: the method, once it was opened.
        players: the method's further networks (a critic): part of the suite's checkpoints.
        numbers: the rows' numbers of the batch under way; None where the images are the suite's own.
    """

    method: ClassVar[str]
    node: ClassVar[str]

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, nn.Module())
        self._boxed = (teacher.to("cuda" if torch.cuda.is_available() else "cpu"),)  # in a tuple it is not a child
        self._settings = {key.lower(): setting_of(value) for key, value in cfg[self.node].items() if value is not None}
        self.hosted: Hosted | None = None
        self.players = nn.Module()
        self.numbers: Tensor | None = None
        if cfg.SOLVER.TRAINER == "base":
            self._open_for_the_suites_images(cfg)
        elif cfg.SOLVER.TRAINER != TRAINER:
            raise InputError(f'SOLVER.TRAINER {cfg.SOLVER.TRAINER!r} does not serve {self.node}: expected "{TRAINER}"')

    def open(self, loader: Any, directory: Path | None, **settings: Any) -> Hosted:
        """Run what comes before the student: train a generator, ask.

        Args:
            loader: the suite's, of labelled training images, of which the edge has a share.
            directory: where to keep what was trained and asked, and to find it again; None keeps nothing.
            **settings: instead of the configuration's.

        Raises:
            InputError: too few classes for the suite, or a setting that cannot be used; nothing was asked.
        """
        wanted = {**self._settings, **settings}
        wanted.pop("steps", None)
        images = draw_edge_images(
            loader.dataset,
            real_images=wanted.pop("real_images", None) or None,
            real_fraction=wanted.pop("real_fraction"),
            seed=wanted["seed"],
        )
        student = Logits(self.student)
        if (classes := predict(student, images[:2]).shape[1]) < _FEWEST_CLASSES:
            raise InputError(
                f"{classes} classes: the suite measures top-5 accuracy, so it takes at least {_FEWEST_CLASSES}"
            )
        self.hosted = open_guest(
            self.method,
            student,
            self._boxed[0],
            images,
            suite="mdistiller",
            images_at_hand=len(loader.dataset),
            answer=logits_of,
            directory=directory,
            **wanted,
        )
        self.players = self.hosted.players
        return self.hosted

    def held_out_agreement(self) -> float | None:
        """With the teacher, on answered rows that the student was not trained on."""
        return None if self.hosted is None else self.hosted.held_out_agreement(Logits(self.student))

    def get_extra_parameters(self) -> int:
        """Weights besides the student's that are trained with it; known once the method is open."""
        return sum(weight.numel() for weight in self.players.parameters())

    def forward_train(self, image: Tensor, target: Tensor, **_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's logits for ``image``, and the loss that the suite differentiates; ``target`` is not looked at.

        Raises:
            InputError: the method was not opened, so this is not our trainer.
        """
        if self.hosted is None:
            raise InputError(f'{self.node} was not opened: SOLVER.TRAINER is "{TRAINER}", and yet another trainer runs')
        forward = Remembered(lambda images: logits_of(self.student(images)))
        rows = self.hosted.ask(image) if self.numbers is None else self.hosted.rows(image, self.numbers)
        loss = self.hosted.losses(forward, rows)["loss"]
        return forward(rows.images), {f"loss_{self.method}": loss}

    def _open_for_the_suites_images(self, cfg: Any) -> None:
        """With the suite's own trainer: the smallest transfer set, since each of its batches is a question."""
        sent = distillers().get(self.method).needs.leaves_edge
        if sent != "real images":
            raise NeedsNotMet(
                f'{self.node} learns from {sent} of its own and SOLVER.TRAINER is "base", which shows the suite\'s '
                f'training images: set SOLVER.TRAINER to "{TRAINER}"'
            )
        from mdistiller.dataset import get_dataset

        loader = get_dataset(cfg)[0]
        self.open(loader, None, **({"queries": 2} if "QUERIES" in cfg[self.node] else {}))
        _say(
            f'{self.node} with the trainer "base" asks about every batch anew: {len(loader.dataset):,} queries an epoch'
        )

    def _replicate_for_data_parallel(self) -> NoReturn:
        raise NeedsNotMet(_REPLICAS.format(count="several"))


class GuestTrainer(BaseTrainer):
    """The suite's trainer, on the rows of a :class:`GuestDistiller`; mixed in before the suite's own ``BaseTrainer``.

    Its target is the teacher's answer, so the train accuracy that the suite prints is the student's agreement with the
    teacher on the images that it looks at. What was prepared is kept below the suite's own log path, in ``mekd/``.
    """

    def __init__(self, experiment_name: str, distiller: Any, train_loader: Any, val_loader: Any, cfg: Any) -> None:
        guest = distiller.module
        if not isinstance(guest, GuestDistiller):
            raise InputError(
                f'SOLVER.TRAINER "{TRAINER}" serves this package\'s methods, and DISTILLER.TYPE is '
                f'{cfg.DISTILLER.TYPE!r}: set SOLVER.TRAINER to "base"'
            )
        if len(distiller.device_ids) > 1:
            raise NeedsNotMet(_REPLICAS.format(count=len(distiller.device_ids)))
        super().__init__(experiment_name, distiller, train_loader, val_loader, cfg)
        directory = Path(self.log_path) / "mekd"
        if directory.exists():
            _say(f"what a run of this name prepared is taken over from {directory}")
        hosted = guest.open(train_loader, directory)
        self.train_loader = hosted.loader(cfg.SOLVER.BATCH_SIZE, steps=cfg[guest.node].STEPS)
        _say(
            f"{guest.node}: {hosted.ledger}; {guest.get_extra_parameters():,} extra parameters; an epoch is "
            f"{len(self.train_loader)} batches of the method's own images, and the train accuracy is the student's "
            "agreement with the teacher on them"
        )

    def train_iter(self, data: Any, epoch: int, train_meters: Any) -> str:
        """The suite's step; it passes on no row numbers, so they are left with the distiller."""
        self.distiller.module.numbers = data[2]
        message: str = super().train_iter(data, epoch, train_meters)
        return message

    def train(self, resume: bool = False) -> None:
        """The suite's training; then the ledger beside its log."""
        super().train(resume=resume)
        guest = self.distiller.module
        held_out = guest.held_out_agreement()
        guest.hosted.close()
        if held_out is not None:
            _say(f"agreement with the teacher on answers that were held out: {100 * held_out:.2f} %")
        content = json.dumps(guest.hosted.ledger.as_record(), indent=1) + "\n"
        write_atomically(Path(self.log_path) / "ledger.json", content.encode())


def _say(words: str) -> None:
    print(f"[mekd] mdistiller, {words}", flush=True)
