"""What must survive the process: checkpoints of open runs, and records not yet delivered."""
