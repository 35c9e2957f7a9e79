from .base_class import BaseClass as BaseClass
