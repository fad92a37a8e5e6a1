"""MedicalNet's 3D ResNet-50 (Chen et al. 2019, Med3D), through MONAI: volumes to 2048 numbers."""

from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import resnet50

from coldstart.embedding.encoder import Array, TorchEncoder
from coldstart.embedding.preprocessing import resize, to_grey
from coldstart.embedding.weights import fetch_hub_file, hash_files, load_into, load_state_dict

# Voxels along x, y, z that every volume is resized to: the whole body part at the memory of a small GPU.
GRID = (96, 96, 96)
N_FEATURES = 2048
HUB_REPOSITORY, HUB_FILE = "TencentMedicalNet/MedicalNet-Resnet50", "resnet_50_23dataset.pth"


class MedicalNetEncoder(TorchEncoder):
    """See the module; the volume is clipped to its percentiles, resized to 96 x 96 x 96 and z-scored."""

    spatial_dims = 3
    n_features = N_FEATURES

    def __init__(self, path: Path | None, device: torch.device) -> None:
        option = "`--conf encoder_weights`" if path is not None else "`--conf encoder medicalnet`"
        found = path or fetch_hub_file(HUB_REPOSITORY, HUB_FILE, option)
        network = resnet50(
            pretrained=False,
            spatial_dims=3,
            n_input_channels=1,
            feed_forward=False,
            shortcut_type="B",
            bias_downsample=False,
        )
        state = load_state_dict(found, option)
        # The published files of segmentation models carry a head that is not used.
        body = {key: value for key, value in state.items() if not key.startswith(("conv_seg.", "fc."))}
        load_into(network, body, found, f"MedicalNet's {HUB_FILE}")
        super().__init__("medicalnet", hash_files([found]), network, device)

    def prepare(self, image: Array) -> Array:
        """Resize (channels, x, y, z) to the grid and z-score it; a constant volume becomes zero."""
        grey = resize(to_grey(image), GRID)
        spread = float(grey.std())
        return np.asarray((grey - grey.mean()) / (spread if spread > 0 else 1.0), dtype=np.float32)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the network up to its average pooling."""
        vectors: torch.Tensor = self.network(inputs)
        return vectors
