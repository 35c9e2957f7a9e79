"""Distil a teacher that can only be asked into any student of timm's, by a loop such as a timm user writes.

    pip install "mekd-plugin[timm]"
    python timm_student.py --method mekd --model test_resnet --output runs/timm [--resume]

Data and teacher are small so that it runs anywhere (the digits, a LeNet5 trained on the spot); put yours in ``main``.
"""

import argparse
from pathlib import Path

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.task import resume_task_checkpoint
from timm.utils import CheckpointSaver

from mekd_plugin.data import edge_images, load
from mekd_plugin.harness import timm as mekd_timm
from mekd_plugin.networks import build
from mekd_plugin.training.recipe import Recipe
from mekd_plugin.training.supervised import train_teacher


def train(
    task, test, *, epochs, steps=None, batch_size=64, lr=0.02, cosine=False, ema=None, resume=False, output, log=print
):
    """Train the task's student, with a checkpoint an epoch in ``output``; return its test accuracy in percent."""
    optimizer = create_optimizer_v2(task.get_trainable_module(), opt="momentum", lr=lr, weight_decay=0.0, momentum=0.9)
    schedule = CosineLRScheduler(optimizer, t_initial=epochs) if cosine else None
    if ema:
        task.setup_ema(decay=ema)
    output.mkdir(parents=True, exist_ok=True)
    saver = CheckpointSaver(
        task.get_trainable_module(), optimizer, task=task, checkpoint_dir=output, recovery_dir=output, max_history=1
    )
    first = 0
    if resume and (output / "last.pth.tar").exists():
        first = resume_task_checkpoint(task, output / "last.pth.tar", optimizer) or 0
    metrics = evaluate(task, test)
    for epoch in range(first, epochs):
        task.train()
        agreed, seen = 0, 0
        for input, target in task.loader(batch_size, steps=steps):
            result = task(input, target)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            task.update_ema()
            agreed += (result["output"].argmax(1) == result["target"]).sum().item()
            seen += len(target)
        if schedule is not None:
            schedule.step(epoch + 1)
        metrics = evaluate(task, test)
        ema_note = f", EMA {evaluate(task, test, ema=True)['top1']:.2f} %" if ema else ""
        log(
            f"epoch {epoch}: loss {result['loss'].item():.4f}, agreement with the teacher {100 * agreed / seen:.1f} %, "
            f"test {metrics['top1']:.2f} %{ema_note}"
        )
        saver.save_checkpoint(epoch, metric=metrics["top1"])
    return metrics["top1"]


@torch.no_grad()
def evaluate(task, test, *, ema=False):
    """The evaluator that timm's task makes, on true labels."""
    model = task.get_eval_model(ema=ema)
    model.eval()
    evaluator = task.create_evaluator()
    for images, labels in zip(*(part.split(256) for part in test), strict=True):
        evaluator.update(model(images), labels)
    return evaluator.compute()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--method", default="mekd", help="mekd list shows the names")
    parser.add_argument("--model", default="test_resnet", help="of timm.create_model")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--budget", type=int, default=3000, help="questions to the teacher")
    parser.add_argument("--real-images", type=int, default=200, help="unlabelled ones at the edge")
    parser.add_argument("--ema", type=float, help="decay")
    parser.add_argument("--output", type=Path, default=Path("timm-output"))
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    data = load("digits")
    teacher = train_teacher(
        build("lenet5", data.num_classes, data.image_shape, seed=0),
        data.train_images,
        data.train_labels,
        num_classes=data.num_classes,
        recipe=Recipe(steps=600),
    )
    torch.manual_seed(0)
    student = timm.create_model(args.model, num_classes=data.num_classes, in_chans=data.image_shape[0])
    images = edge_images(data, real_images=args.real_images, seed=0).images
    guest = mekd_timm.task(args.method, student, teacher, images, budget=args.budget, directory=args.output / "method")
    train(
        guest,
        (data.test_images, data.test_labels),
        epochs=args.epochs,
        batch_size=args.batch_size,
        lr=args.lr,
        cosine=True,
        ema=args.ema,
        resume=args.resume,
        output=args.output,
    )


if __name__ == "__main__":
    main()
