"""How fast the machine is, beside its data sheet: products, memory, a step, the head."""
