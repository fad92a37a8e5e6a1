from coldstart.adapters.app import ColdStartApp  # noqa: F401  MONAI Label looks for the app class in this file
