from torchtext.legacy import data
from transformers import AdamW

from KD_Lib.KD.common import BaseClass


class BERT2LSTM(BaseClass):
    def train_teacher(self):
        return AdamW(self.teacher_model.parameters()), data.Field()
