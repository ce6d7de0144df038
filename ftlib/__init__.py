"""ftlib: the plumbing of the Fine-Tuning Playbook. Import the rooms themselves, e.g. `from ftlib import runs`."""
