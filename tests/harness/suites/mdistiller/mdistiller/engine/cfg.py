from yacs.config import CfgNode

CFG = CfgNode(
    {
        "EXPERIMENT": {"PROJECT": "distill", "NAME": "", "TAG": "default"},
        "DATASET": {"TYPE": "cifar100", "NUM_WORKERS": 2, "TEST": {"BATCH_SIZE": 64}},
        "DISTILLER": {"TYPE": "NONE", "TEACHER": "ResNet50", "STUDENT": "resnet32"},
        "SOLVER": {
            "TRAINER": "base",
            "BATCH_SIZE": 64,
            "EPOCHS": 240,
            "LR": 0.05,
            "WEIGHT_DECAY": 0.0001,
            "MOMENTUM": 0.9,
            "TYPE": "SGD",
            "LR_DECAY_STAGES": [150, 180, 210],
            "LR_DECAY_RATE": 0.1,
        },
        "LOG": {"PREFIX": "./output", "WANDB": True},
        "KD": {"TEMPERATURE": 4},
    }
)
