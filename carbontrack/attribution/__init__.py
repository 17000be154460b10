"""Attribution: which part of the machine's energy belongs to this process tree."""
