from torch.utils.data import DataLoader
from torchvision import datasets


class CIFAR100Instance(datasets.CIFAR100):
    def __getitem__(self, index):
        img, target = super().__getitem__(index)
        return img, target, index


def get_cifar100_dataloaders(batch_size=128, num_workers=8, is_instance=False):
    kind = CIFAR100Instance if is_instance else datasets.CIFAR100
    train_set, test_set = kind("./data/", train=True), datasets.CIFAR100("./data/", train=False)
    train_loader = DataLoader(train_set, batch_size=batch_size, shuffle=True, num_workers=num_workers)
    test_loader = DataLoader(test_set, batch_size=batch_size // 2, num_workers=num_workers // 2)
    return (train_loader, test_loader, len(train_set)) if is_instance else (train_loader, test_loader)


def get_cifar100_dataloaders_sample(batch_size=128, num_workers=8, k=4096, mode="exact"):
    raise NotImplementedError("contrasts of CIFAR-100")
