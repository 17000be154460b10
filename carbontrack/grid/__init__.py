"""Carbon intensity: how many grams a kilowatt-hour costs, where and when."""
