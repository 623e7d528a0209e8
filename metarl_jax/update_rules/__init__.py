"""Learning what agents learn by: agents with lifetimes, and rules moved by meta-gradients or by evolution."""
