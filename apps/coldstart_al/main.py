from coldstart.adapters.app import ColdStartApp  # noqa: D100, F401  MONAI Label looks for the app class in this file
