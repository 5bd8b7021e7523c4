"""Dense targets of tokens that are not stored: their sums by block, and the passes that gather and judge them."""
