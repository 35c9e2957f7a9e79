import numpy as np


def adjust_learning_rate(epoch, opt, optimizer):
    steps = np.sum(epoch > np.asarray(opt.lr_decay_epochs))
    if steps > 0:
        for group in optimizer.param_groups:
            group["lr"] = opt.learning_rate * (opt.lr_decay_rate**steps)


class AverageMeter:
    def __init__(self):
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val, n=1):
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


def accuracy(output, target, topk=(1,)):
    _, ranked = output.topk(max(topk), dim=1)
    hits = ranked == target.view(-1, 1)
    return [hits[:, :k].float().sum().view(1) * (100.0 / len(target)) for k in topk]
