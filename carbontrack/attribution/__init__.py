"""Attribution: which part of the machine's energy is ours."""
