"""What to try next, and when to end: the loop, the suggesters, the budget."""
