"""Is a conversion equal to its original? Reference implementations, and the comparison with them."""
