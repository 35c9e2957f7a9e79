from torch import nn
from torch.nn import functional as F

from KD_Lib.KD.common import BaseClass


class VanillaKD(BaseClass):
    def __init__(self, *models_loaders_optimizers, loss_fn=None, **settings):
        super().__init__(*models_loaders_optimizers, loss_fn=loss_fn or nn.MSELoss(), **settings)

    def calculate_kd_loss(self, y_pred_student, y_pred_teacher, y_true):
        soft = self.loss_fn((y_pred_teacher / self.temp).softmax(1), (y_pred_student / self.temp).softmax(1))
        hard = F.cross_entropy(y_pred_student, y_true)
        return (1 - self.distil_weight) * hard + self.distil_weight * self.temp**2 * soft
