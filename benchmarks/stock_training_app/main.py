"""MONAI Label's own app with its own random strategy, trainer and inference, filled in as its radiology app does.

Network, loss, optimiser and grid are those of this project, so that a training step and a segmentation cost the same.
"""

import os

import torch
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from monai.networks.nets import AttentionUnet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    NormalizeIntensityd,
    SqueezeDimd,
)
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.train.basic_train import BasicTrainTask

NAME = "attention_unet"
LABELS = ["disk"]


def network():
    return AttentionUnet(2, 1, 2, channels=(32, 64, 128, 256, 512), strides=(2, 2, 2, 2), dropout=0.15)


class Inference(BasicInferTask):
    def __init__(self, path):
        super().__init__(
            path=path,
            network=network(),
            type=InferType.SEGMENTATION,
            labels=LABELS,
            dimension=2,
            description="stock",
            config={"result_extension": ".png", "result_dtype": "uint8"},
        )

    def pre_transforms(self, data=None):
        return [LoadImaged("image"), EnsureChannelFirstd("image"), NormalizeIntensityd("image"), EnsureTyped("image")]

    def inferer(self, data=None):
        return SimpleInferer()

    def post_transforms(self, data=None):
        return [Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True), SqueezeDimd("pred", dim=0)]


class Training(BasicTrainTask):
    def network(self, context):
        return network()

    def optimizer(self, context):
        return torch.optim.Adam(context.network.parameters(), lr=1e-3)

    def loss_function(self, context):
        return DiceCELoss(to_onehot_y=True, softmax=True)

    def train_pre_transforms(self, context):
        keys = ("image", "label")
        return [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            NormalizeIntensityd("image"),
            EnsureTyped(keys, device=context.device),
        ]

    def train_post_transforms(self, context):
        return [Activationsd("pred", softmax=True), AsDiscreted(("pred", "label"), argmax=(True, False), to_onehot=2)]

    def val_inferer(self, context):
        return SimpleInferer()


class StockApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        self._models = os.path.join(app_dir, "model")
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name="stock")

    def init_infers(self):
        return {NAME: Inference(os.path.join(self._models, f"{NAME}.pt"))}

    def init_trainers(self):
        options = {"pretrained": False, "multi_gpu": False, "val_split": 0.0, "train_batch_size": 2}
        options |= {"dataset": "CacheDataset", "dataloader": "ThreadDataLoader", "tracking": "None"}
        publish = os.path.join(self._models, f"{NAME}.pt")
        folder = os.path.join(self._models, NAME)
        return {NAME: Training(folder, config=options, publish_path=publish, labels=LABELS, tracking=None)}

    def init_strategies(self):
        return {"random": Random()}
