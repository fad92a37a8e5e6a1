"""Which medical image to label next: cold start, active learning, and the MONAI Label app around them."""
