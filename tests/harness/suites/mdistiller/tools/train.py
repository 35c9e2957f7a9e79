import argparse
import os

import torch
from mdistiller.dataset import get_dataset
from mdistiller.distillers import distiller_dict
from mdistiller.engine import trainer_dict
from mdistiller.engine.cfg import CFG as cfg
from mdistiller.engine.utils import load_checkpoint
from mdistiller.models import cifar_model_dict


def main(cfg, resume, opts):
    experiment_name = cfg.EXPERIMENT.NAME
    if opts:
        experiment_name += ",".join(f"{key}:{value}" for key, value in zip(opts[::2], opts[1::2], strict=True))
    experiment_name = os.path.join(cfg.EXPERIMENT.PROJECT, experiment_name)
    train_loader, val_loader, num_data, num_classes = get_dataset(cfg)
    distiller = vanilla(cfg, num_classes) if cfg.DISTILLER.TYPE == "NONE" else distilled(cfg, num_classes)
    distiller = torch.nn.DataParallel(distiller.cuda())
    trainer = trainer_dict[cfg.SOLVER.TRAINER](experiment_name, distiller, train_loader, val_loader, cfg)
    trainer.train(resume=resume)


def vanilla(cfg, num_classes):
    return distiller_dict[cfg.DISTILLER.TYPE](cifar_model_dict[cfg.DISTILLER.STUDENT][0](num_classes=num_classes))


def distilled(cfg, num_classes):
    net, checkpoint = cifar_model_dict[cfg.DISTILLER.TEACHER]
    assert checkpoint is not None
    teacher = net(num_classes=num_classes)
    teacher.load_state_dict(load_checkpoint(checkpoint)["model"])
    student = cifar_model_dict[cfg.DISTILLER.STUDENT][0](num_classes=num_classes)
    distiller = distiller_dict[cfg.DISTILLER.TYPE](student, teacher, cfg)
    print(f"Extra parameters: {distiller.get_extra_parameters()}")
    return distiller


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("opts", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    cfg.merge_from_file(args.cfg)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    main(cfg, args.resume, args.opts)
