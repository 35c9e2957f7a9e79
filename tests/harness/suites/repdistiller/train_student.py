import argparse
import os

import tensorboard_logger as tb_logger
import torch
from dataset.cifar100 import get_cifar100_dataloaders, get_cifar100_dataloaders_sample
from helper.loops import train_distill as train
from helper.loops import validate
from models import model_dict
from torch import nn, optim

METHODS = [
    *("kd", "hint", "attention", "similarity", "correlation", "vid", "crd", "kdsvd", "fsp", "rkd", "pkt", "abound"),
    *("factor", "nst"),
]


def parse_option():
    parser = argparse.ArgumentParser("argument for training")
    parser.add_argument("--print_freq", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_workers", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--lr_decay_epochs", default="150,180,210")
    parser.add_argument("--weight_decay", type=float, default=5e-4)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--dataset", default="cifar100", choices=["cifar100"])
    parser.add_argument("--model_s", default="resnet8", choices=["resnet8", "resnet8x4"])
    parser.add_argument("--path_t", default=None)
    parser.add_argument("--distill", default="kd", choices=METHODS)
    parser.add_argument("--trial", default="1")
    parser.add_argument("-r", "--gamma", type=float, default=1)
    parser.add_argument("-a", "--alpha", type=float, default=None)
    parser.add_argument("-b", "--beta", type=float, default=None)
    parser.add_argument("--kd_T", type=float, default=4)
    parser.add_argument("--hint_layer", type=int, default=2)
    opt = parser.parse_args()
    opt.model_t = get_teacher_name(opt.path_t)
    weights = f"r:{opt.gamma}_a:{opt.alpha}_b:{opt.beta}"
    opt.model_name = f"S:{opt.model_s}_T:{opt.model_t}_{opt.dataset}_{opt.distill}_{weights}_{opt.trial}"
    opt.tb_folder = os.path.join("./save/student_tensorboards", opt.model_name)
    opt.save_folder = os.path.join("./save/student_model", opt.model_name)
    os.makedirs(opt.tb_folder, exist_ok=True)
    os.makedirs(opt.save_folder, exist_ok=True)
    return opt


def get_teacher_name(model_path):
    return model_path.split("/")[-2].split("_")[0]


class DistillKL(nn.Module):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, y_s, y_t):
        student = (y_s / self.temperature).log_softmax(1)
        teacher = (y_t / self.temperature).softmax(1)
        return nn.functional.kl_div(student, teacher, reduction="batchmean") * self.temperature**2


def main():
    opt = parse_option()
    logger = tb_logger.Logger(logdir=opt.tb_folder, flush_secs=2)
    if opt.dataset == "cifar100":
        if opt.distill in ["crd"]:
            loaders = get_cifar100_dataloaders_sample(batch_size=opt.batch_size, num_workers=opt.num_workers)
        else:
            loaders = get_cifar100_dataloaders(batch_size=opt.batch_size, num_workers=opt.num_workers, is_instance=True)
        train_loader, val_loader, n_data = loaders
        n_cls = 100
    else:
        raise NotImplementedError(opt.dataset)

    model_t = model_dict[get_teacher_name(opt.path_t)](num_classes=n_cls)
    model_t.load_state_dict(torch.load(opt.path_t)["model"])
    model_s = model_dict[opt.model_s](num_classes=n_cls)

    data = torch.randn(2, 3, 32, 32)
    model_t.eval()
    model_s.eval()
    feat_t, _ = model_t(data, is_feat=True)
    feat_s, _ = model_s(data, is_feat=True)
    module_list, trainable_list = nn.ModuleList([model_s]), nn.ModuleList([model_s])
    criterion_cls, criterion_div = nn.CrossEntropyLoss(), DistillKL(opt.kd_T)
    if opt.distill == "kd":
        criterion_kd = DistillKL(opt.kd_T)
    elif opt.distill == "hint":
        criterion_kd = nn.MSELoss()
        regress = nn.Conv2d(feat_s[opt.hint_layer].shape[1], feat_t[opt.hint_layer].shape[1], 1)
        module_list.append(regress)
        trainable_list.append(regress)
    else:
        raise NotImplementedError(opt.distill)
    criterion_list = nn.ModuleList([criterion_cls, criterion_div, criterion_kd])
    optimizer = optim.SGD(
        trainable_list.parameters(), lr=opt.learning_rate, momentum=opt.momentum, weight_decay=opt.weight_decay
    )
    module_list.append(model_t)

    teacher_acc, _, _ = validate(val_loader, model_t, criterion_cls, opt)
    print("teacher accuracy: ", teacher_acc)
    for epoch in range(1, opt.epochs + 1):
        train_acc, _ = train(epoch, train_loader, module_list, criterion_list, optimizer, opt)
        logger.log_value("train_acc", train_acc, epoch)
        test_acc, _, _ = validate(val_loader, model_s, criterion_cls, opt)
        logger.log_value("test_acc", test_acc, epoch)
    print("best accuracy:", test_acc)
    torch.save({"opt": opt, "model": model_s.state_dict()}, os.path.join(opt.save_folder, f"{opt.model_s}_last.pth"))


if __name__ == "__main__":
    main()
