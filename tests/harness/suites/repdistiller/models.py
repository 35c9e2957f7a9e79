from torch import nn


class Small(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.fc = nn.Linear(width * 16, num_classes)

    def forward(self, x, is_feat=False, preact=False):
        f0 = self.first(x)
        f1 = self.second(f0)
        f2 = self.third(f1)
        logits = self.fc(f2.flatten(1))
        return ([f0, f1, f2], logits) if is_feat else logits


def resnet8(num_classes=100):
    return Small(8, num_classes)


def resnet8x4(num_classes=100):
    return Small(16, num_classes)


model_dict = {"resnet8": resnet8, "resnet8x4": resnet8x4}
