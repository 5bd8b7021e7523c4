"""Steps, checkpoints, logs and several processes; knows no objective."""
