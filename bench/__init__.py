"""How fast billhook is: each figure beside a floor, the same work on the wire with no product in it, in one run."""
