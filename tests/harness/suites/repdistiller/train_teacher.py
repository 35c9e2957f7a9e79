import argparse
import os

import tensorboard_logger as tb_logger
import torch
from dataset.cifar100 import get_cifar100_dataloaders
from helper.loops import train_vanilla as train
from helper.loops import validate
from helper.util import adjust_learning_rate
from models import model_dict
from torch import nn, optim


def parse_option():
    parser = argparse.ArgumentParser("argument for training")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_workers", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--lr_decay_epochs", default="150,180,210")
    parser.add_argument("--lr_decay_rate", type=float, default=0.1)
    parser.add_argument("--model", default="resnet8", choices=["resnet8", "resnet8x4"])
    parser.add_argument("--dataset", default="cifar100", choices=["cifar100"])
    parser.add_argument("-t", "--trial", type=int, default=0)
    opt = parser.parse_args()
    opt.lr_decay_epochs = [int(epoch) for epoch in opt.lr_decay_epochs.split(",")]
    opt.model_name = f"{opt.model}_{opt.dataset}_lr_{opt.learning_rate}_trial_{opt.trial}"
    opt.tb_folder = os.path.join("./save/tensorboard", opt.model_name)
    opt.save_folder = os.path.join("./save/models", opt.model_name)
    os.makedirs(opt.tb_folder, exist_ok=True)
    os.makedirs(opt.save_folder, exist_ok=True)
    return opt


def main():
    opt = parse_option()
    if opt.dataset == "cifar100":
        train_loader, val_loader = get_cifar100_dataloaders(batch_size=opt.batch_size, num_workers=opt.num_workers)
        n_cls = 100
    else:
        raise NotImplementedError(opt.dataset)
    model = model_dict[opt.model](num_classes=n_cls)
    optimizer = optim.SGD(model.parameters(), lr=opt.learning_rate, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    logger = tb_logger.Logger(logdir=opt.tb_folder, flush_secs=2)
    for epoch in range(1, opt.epochs + 1):
        adjust_learning_rate(epoch, opt, optimizer)
        train_acc, _ = train(epoch, train_loader, model, criterion, optimizer, opt)
        logger.log_value("train_acc", train_acc, epoch)
        test_acc, _, _ = validate(val_loader, model, criterion, opt)
        logger.log_value("test_acc", test_acc, epoch)
    state = {"opt": opt, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, os.path.join(opt.save_folder, f"{opt.model}_last.pth"))


if __name__ == "__main__":
    main()
