from .common import BaseClass as BaseClass
from .text import BERT2LSTM as BERT2LSTM
from .vision import VanillaKD as VanillaKD
