import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ._base import Distiller


class KD(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.temperature = cfg.KD.TEMPERATURE

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        with torch.no_grad():
            answers, _ = self.teacher(image)
        soft = cross_entropy(logits / self.temperature, (answers / self.temperature).softmax(dim=1))
        return logits, {"loss_ce": cross_entropy(logits, target), "loss_kd": soft}


class Vanilla(nn.Module):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def get_learnable_parameters(self):
        return [weight for _, weight in self.student.named_parameters()]

    def forward(self, image, target=None, **kwargs):
        logits, _ = self.student(image)
        return (logits, {"loss": cross_entropy(logits, target)}) if self.training else logits


distiller_dict = {"NONE": Vanilla, "KD": KD}
