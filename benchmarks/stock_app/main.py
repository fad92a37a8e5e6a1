"""MONAI Label's own app with its own strategies: what there is without this project."""

from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random


class StockApp(MONAILabelApp):
    def __init__(self, app_dir, studies, conf):
        super().__init__(app_dir=app_dir, studies=studies, conf=conf, name="stock")

    def init_strategies(self):
        return {"random": Random(), "first": First()}
