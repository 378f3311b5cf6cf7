"""Tests never reach for the network: this must be set before huggingface_hub is imported."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
