import os

import torch

from .utils import Mean, accuracy, adjust_learning_rate, load_checkpoint, validate


class BaseTrainer:
    def __init__(self, experiment_name, distiller, train_loader, val_loader, cfg):
        self.cfg, self.distiller = cfg, distiller
        self.train_loader, self.val_loader = train_loader, val_loader
        self.optimizer = torch.optim.SGD(
            distiller.module.get_learnable_parameters(),
            lr=cfg.SOLVER.LR,
            momentum=cfg.SOLVER.MOMENTUM,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )
        self.best_acc = -1
        self.log_path = os.path.join(cfg.LOG.PREFIX, experiment_name)
        os.makedirs(self.log_path, exist_ok=True)

    def train(self, resume=False):
        epoch = 1
        if resume:
            state = load_checkpoint(os.path.join(self.log_path, "latest"))
            epoch = state["epoch"] + 1
            self.distiller.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.best_acc = state["best_acc"]
        while epoch <= self.cfg.SOLVER.EPOCHS:
            self.train_epoch(epoch)
            epoch += 1

    def train_epoch(self, epoch):
        meters = {"losses": Mean(), "top1": Mean()}
        adjust_learning_rate(epoch, self.cfg, self.optimizer)
        assert len(self.train_loader) > 0
        self.distiller.train()
        for data in self.train_loader:
            self.train_iter(data, epoch, meters)
        test_acc = validate(self.val_loader, self.distiller)
        self.best_acc = max(self.best_acc, test_acc)
        with open(os.path.join(self.log_path, "worklog.txt"), "a") as log:
            log.write(f"epoch: {epoch}\ntrain_acc: {meters['top1'].avg:.2f}\ntest_acc: {test_acc:.2f}\n")
        state = {
            "epoch": epoch,
            "model": self.distiller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_acc": self.best_acc,
        }
        torch.save(state, os.path.join(self.log_path, "latest"))
        student = {"model": self.distiller.module.student.state_dict()}
        torch.save(student, os.path.join(self.log_path, "student_latest"))

    def train_iter(self, data, epoch, train_meters):
        self.optimizer.zero_grad()
        image, target, index = data
        image, target = image.float().cuda(non_blocking=True), target.cuda(non_blocking=True)
        preds, losses_dict = self.distiller(image=image, target=target, epoch=epoch)
        loss = sum(value.mean() for value in losses_dict.values())
        loss.backward()
        self.optimizer.step()
        train_meters["losses"].update(loss.detach(), len(image))
        train_meters["top1"].update(accuracy(preds, target, topk=(1, 5))[0], len(image))
        return "a line for the progress bar"
