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
