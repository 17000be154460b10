"""Carbon intensity: the emissions of a kilowatt-hour by place and time."""
