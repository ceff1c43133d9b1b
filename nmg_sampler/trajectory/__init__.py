"""Where a picture's states lie: levels, schedules, and the trajectory that records them."""
