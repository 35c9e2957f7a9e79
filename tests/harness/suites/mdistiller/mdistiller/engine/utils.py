import numpy as np
import torch


def adjust_learning_rate(epoch, cfg, optimizer):
    steps = np.sum(epoch > np.asarray(cfg.SOLVER.LR_DECAY_STAGES))
    if steps > 0:
        for group in optimizer.param_groups:
            group["lr"] = cfg.SOLVER.LR * (cfg.SOLVER.LR_DECAY_RATE**steps)


class Mean:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def update(self, value, count):
        self.total += float(value) * count
        self.count += count

    @property
    def avg(self):
        return torch.tensor(self.total / max(self.count, 1))


def accuracy(output, target, topk=(1,)):
    order = output.topk(max(topk), dim=1).indices
    hits = order == target[:, None]
    return [100 * hits[:, :k].any(dim=1).float().mean() for k in topk]


def validate(val_loader, distiller):
    distiller.eval()
    top1 = Mean()
    with torch.no_grad():
        for image, target in val_loader:
            output = distiller(image=image.float().cuda())
            top1.update(accuracy(output, target.cuda(), topk=(1, 5))[0], len(image))
    return top1.avg


def load_checkpoint(path):
    return torch.load(path, map_location="cpu")
