"""What would it cost? From hardware and hours to energy, emissions and water, before a run."""
