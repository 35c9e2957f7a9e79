import torch

from .util import AverageMeter, accuracy


def train_vanilla(epoch, train_loader, model, criterion, optimizer, opt):
    model.train()
    losses, top1 = AverageMeter(), AverageMeter()
    for input, target in train_loader:
        output = model(input.float())
        loss = criterion(output, target)
        losses.update(loss.item(), len(input))
        top1.update(accuracy(output, target)[0][0], len(input))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return top1.avg, losses.avg


def train_distill(epoch, train_loader, module_list, criterion_list, optimizer, opt):
    for module in module_list:
        module.train()
    module_list[-1].eval()
    criterion_cls, criterion_div, criterion_kd = criterion_list[0], criterion_list[1], criterion_list[2]
    model_s, model_t = module_list[0], module_list[-1]
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    for idx, data in enumerate(train_loader):
        input, target, index = data
        input = input.float()
        feat_s, logit_s = model_s(input, is_feat=True, preact=False)
        with torch.no_grad():
            feat_t, logit_t = model_t(input, is_feat=True, preact=False)
            feat_t = [f.detach() for f in feat_t]
        loss_cls = criterion_cls(logit_s, target)
        loss_div = criterion_div(logit_s, logit_t)
        if opt.distill == "kd":
            loss_kd = 0
        elif opt.distill == "hint":
            loss_kd = criterion_kd(module_list[1](feat_s[opt.hint_layer]), feat_t[opt.hint_layer])
        else:
            raise NotImplementedError(opt.distill)
        loss = opt.gamma * loss_cls + opt.alpha * loss_div + opt.beta * loss_kd
        acc1, acc5 = accuracy(logit_s, target, topk=(1, 5))
        losses.update(loss.item(), input.size(0))
        top1.update(acc1[0], input.size(0))
        top5.update(acc5[0], input.size(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if idx % opt.print_freq == 0:
            print(f"Epoch: [{epoch}][{idx}/{len(train_loader)}]\tLoss {losses.val:.4f} ({losses.avg:.4f})")
    print(f" * Acc@1 {top1.avg:.3f} Acc@5 {top5.avg:.3f}")
    return top1.avg, losses.avg


def validate(val_loader, model, criterion, opt):
    model.eval()
    losses, top1, top5 = AverageMeter(), AverageMeter(), AverageMeter()
    with torch.no_grad():
        for input, target in val_loader:
            output = model(input.float())
            losses.update(criterion(output, target).item(), len(input))
            acc1, acc5 = accuracy(output, target, topk=(1, 5))
            top1.update(acc1[0], len(input))
            top5.update(acc5[0], len(input))
    print(f" * Acc@1 {top1.avg:.3f} Acc@5 {top5.avg:.3f}")
    return top1.avg, top5.avg, losses.avg
