"""What must be set before libraries are imported: tests never reach for the network, and threads
wait asleep (see cli.main)."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
