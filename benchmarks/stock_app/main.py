"""MONAI Label's own app with its own random strategy: what there is without this project."""

from monailabel.interfaces.app import MONAILabelApp


class StockApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name="stock")
