"""ftlib: the plumbing of the Fine-Tuning Playbook. Import the rooms themselves, e.g. `from ftlib import runs`."""

import logging
import os
import warnings

# Three messages that fill a notebook and that its reader can do nothing about. Set before any library is imported.
# PEFT 0.21 and TRL 1.16 ask transformers by a name that was replaced.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
# bitsandbytes 0.50 looks on a hub for a faster CPU kernel; it has its own where that one is not there.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# A bar for each of four passes over the rows; `HF_DATASETS_DISABLE_PROGRESS_BARS=0` shows them.
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
